"""Asking a language model for judgements: in this process or at a server, in batches, each question once.

What came back is kept as text in a file of JSON lines, so that a run that was interrupted asks only what is missing and
a change of how replies are *read* asks nothing anew. A question that got no reply (the server failed, the text is too
long) is not kept: the next run asks again. A model is known by its name or folder: whoever puts other weights into the
same folder deletes the file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer

from saferlrm.errors import SaferlrmError
from saferlrm.profile import ServerSettings
from saferlrm.progress import track
from saferlrm.training import quiet_transformers

CHARACTERS_PER_TOKEN = 4  # where only a server knows the tokenizer


@dataclass(frozen=True)
class Question:
    """What a judge is asked.

    Attributes:
        messages: a conversation for the model's chat template, or
        text: the whole prompt as text.
        choices: single tokens whose probabilities are wanted instead of a text.
    """

    messages: tuple[tuple[str, str], ...] = ()  # (role, content)
    text: str = ""
    choices: tuple[str, ...] = ()
    max_new_tokens: int = 64


@dataclass(frozen=True)
class Reply:
    """Text, or the probability of each choice, or why there is neither."""

    text: str | None = None
    probabilities: tuple[float, ...] | None = None
    failed: str | None = None


class Backend(Protocol):
    """Something that replies; replies come in any order, each with the place of its question."""

    name: str

    def cut(self, text: str, tokens: int | None = None) -> str:
        """``text`` without the model's control tokens, and at most ``tokens`` long."""

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]: ...


class Local:
    """A causal language model in this process, loaded when it is first asked.

    Args:
        source: folder or hub name of the weights, or of an adapter whose config names its base.
        device: ``auto`` or a torch device.
    """

    def __init__(self, source: str, batch_size: int = 16, device: str = "auto", dtype: str = "auto") -> None:
        self.name, self.batch_size, self.dtype = source, batch_size, dtype
        self.device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._loaded: tuple[Any, Any] | None = None

    @property
    def tokenizer(self) -> Any:
        return self._load()[1]

    def cut(self, text: str, tokens: int | None = None) -> str:
        for token in self.tokenizer.all_special_tokens:
            text = text.replace(token, "")
        if tokens is None:
            return text
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return text if len(ids) <= tokens else self.tokenizer.decode(ids[:tokens])

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        model, _ = self._load()
        context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 2**31
        ids = [self._encode(question) for question in questions]
        waiting = []
        for place in sorted(range(len(ids)), key=lambda place: (questions[place].choices, len(ids[place]))):
            if len(ids[place]) + questions[place].max_new_tokens > context:
                yield place, Reply(failed=f"{len(ids[place])} tokens do not fit the judge's context of {context}")
            else:
                waiting.append(place)
        size = self.batch_size
        while waiting:
            batch = [p for p in waiting[:size] if questions[p].choices == questions[waiting[0]].choices]
            try:
                replies = self._reply([ids[p] for p in batch], questions[batch[0]])
            except torch.OutOfMemoryError as error:
                if size == 1:
                    raise SaferlrmError(
                        f"the judge {self.name} does not fit into memory; set judge.model to a smaller one or judge.url"
                    ) from error
                torch.cuda.empty_cache()
                size = max(1, size // 2)  # the same replies, only slower
                continue
            yield from zip(batch, replies, strict=True)
            del waiting[: len(batch)]

    def _encode(self, question: Question) -> list[int]:
        tokenizer = self.tokenizer
        if not question.messages:
            return tokenizer(question.text)["input_ids"]
        if not tokenizer.chat_template:
            raise SaferlrmError(f"the judge {self.name} has no chat template; set judge.model to a chat model")
        messages = [{"role": role, "content": content} for role, content in question.messages]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.inference_mode()
    def _reply(self, ids: list[list[int]], question: Question) -> list[Reply]:
        model, tokenizer = self._load()
        enc = tokenizer.pad({"input_ids": ids}, padding_side="left", return_tensors="pt").to(model.device)
        if question.choices:
            places = tokenizer.convert_tokens_to_ids(list(question.choices))
            last = model(**enc).logits[:, -1].float().softmax(-1)[:, places]
            return [Reply(probabilities=tuple(row)) for row in last.tolist()]
        made = model.generate(
            **enc, do_sample=False, max_new_tokens=question.max_new_tokens, pad_token_id=tokenizer.pad_token_id
        )
        new = made[:, enc["input_ids"].shape[1] :]
        return [Reply(text=text) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            try:
                with quiet_transformers():
                    tokenizer = AutoTokenizer.from_pretrained(self.name)
                    model, report = AutoModelForCausalLM.from_pretrained(
                        self.name, dtype=self.dtype, use_safetensors=True, output_loading_info=True
                    )
                if report["missing_keys"]:
                    raise ValueError(f"it lacks weights, the first is {min(report['missing_keys'])}")
                model = model.to(self.device).eval()
            except Exception as error:  # hub, file and format errors of several libraries
                reason = " ".join(str(error).split())[:160]
                raise SaferlrmError(
                    f"cannot load the judge {self.name} ({reason}); set judge.model to a folder or hub name that you "
                    "may read, or judge.url to a server that runs it"
                ) from error
            if tokenizer.pad_token is None:
                tokenizer.pad_token = tokenizer.eos_token
            # Judges are greedy; sampling settings that came with the model would only cause warnings.
            model.generation_config.temperature = model.generation_config.top_p = model.generation_config.top_k = None
            self._loaded = model, tokenizer
        return self._loaded


class Server:
    """An OpenAI-compatible server. ``OPENAI_API_KEY`` is sent if it is set.

    Too many requests, server errors and lost connections are tried again after 1, 2, 4 … seconds (or what the server
    asks for, at most a minute). A question that fails for good is reported as failed; a server that fails many in a row
    is given up with an error, and what it has said is kept.
    """

    AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
    FIRST_WAIT = 1.0

    def __init__(self, url: str, name: str, settings: ServerSettings | None = None) -> None:
        self.url, self.name, self.settings = url.rstrip("/"), name, settings or ServerSettings()

    def cut(self, text: str, tokens: int | None = None) -> str:
        return text if tokens is None else text[: tokens * CHARACTERS_PER_TOKEN]

    def ask(self, questions: Sequence[Question]) -> Iterator[tuple[int, Reply]]:
        parallel = self.settings.parallel
        patience, lost = max(8, 2 * parallel), 0
        with ThreadPoolExecutor(parallel) as pool:
            places = iter(range(len(questions)))
            running = {pool.submit(self._one, questions[p]): p for p in itertools.islice(places, 2 * parallel)}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    place, (reply, reached) = running.pop(future), future.result()
                    lost = 0 if reached else lost + 1
                    yield place, reply
                    if lost < patience and (following := next(places, None)) is not None:
                        running[pool.submit(self._one, questions[following])] = following
        if lost >= patience:
            raise SaferlrmError(
                f"the judge's server {self.url} failed {lost} times in a row ({reply.failed}); see to it and run "
                "again: what it has judged is kept"
            )

    def _one(self, question: Question) -> tuple[Reply, bool]:
        """The reply, and whether the server could be reached at all."""
        kind, body = "completions", {"prompt": question.text}
        if question.messages:
            kind = "chat/completions"
            body = {"messages": [{"role": role, "content": content} for role, content in question.messages]}
        body |= {"model": self.name, "max_tokens": question.max_new_tokens, "temperature": 0}
        body |= {"logprobs": 20} if question.choices else {}
        why = ""
        for attempt in range(self.settings.retries + 1):
            try:
                return self._read(self._post(kind, body), question), True
            except urllib.error.HTTPError as error:
                why = f"HTTP {error.code}"
                if error.code in (401, 403, 404):
                    raise SaferlrmError(
                        f"{self.url} refuses the judge's request ({why}); check judge.url, judge.model, OPENAI_API_KEY"
                    ) from error
                if error.code not in self.AGAIN:
                    return Reply(failed=why), True
                asked = error.headers.get("Retry-After", "")
            except (OSError, ValueError) as error:  # no connection, a timeout, or no JSON
                why, asked = f"{type(error).__name__}: {error}"[:120], ""
            if attempt < self.settings.retries:
                pause = float(asked) if asked.replace(".", "", 1).isdigit() else self.FIRST_WAIT * 2**attempt
                time.sleep(min(60.0, pause))
        return Reply(failed=why), False

    def _post(self, kind: str, body: dict[str, Any]) -> Any:
        headers = {"Content-Type": "application/json"}
        if os.environ.get("OPENAI_API_KEY"):
            headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
        request = urllib.request.Request(f"{self.url}/{kind}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.settings.timeout) as response:
            return json.loads(response.read())

    @staticmethod
    def _read(body: Any, question: Question) -> Reply:
        try:
            choice = body["choices"][0]
            if question.choices:
                first = choice["logprobs"]["top_logprobs"][0]
                mass = dict.fromkeys(question.choices, 0.0)
                for token, logprob in first.items():
                    if token.strip() in mass:
                        mass[token.strip()] += exp(logprob)
                return Reply(probabilities=tuple(mass.values()))
            text = choice["message"]["content"] if question.messages else choice["text"]
            return Reply(text=str(text or ""))
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            return Reply(failed=f"the server's reply has no usable choice ({type(error).__name__})")


class Cache:
    """Replies by question, in a file of JSON lines that several processes may append to; no path, no file."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._known: dict[str, Reply] | None = None

    def replies(self, backend: Backend, questions: Sequence[Question], what: str) -> list[Reply]:
        """A reply to every question, asking ``backend`` for those that have none yet."""
        known = self._read()
        keys = [_key(backend.name, question) for question in questions]
        missing = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        order, fresh = list(missing), dict[str, Reply]()
        if missing:
            for place, reply in track(backend.ask(list(missing.values())), what, len(missing)):
                fresh[order[place]] = reply
                if reply.failed is None:
                    known[order[place]] = reply
                    self._append(order[place], reply)
        return [known[key] if key in known else fresh[key] for key in keys]

    def _read(self) -> dict[str, Reply]:
        if self._known is None:
            self._known = {}
            if self.path is not None and self.path.is_file():
                for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                    try:
                        row = json.loads(line)
                        numbers = row.get("probabilities")
                        self._known[row["key"]] = Reply(row.get("text"), tuple(numbers) if numbers else None)
                    except (ValueError, KeyError, TypeError, AttributeError):
                        continue  # a line that a killed process did not finish
        return self._known

    def _append(self, key: str, reply: Reply) -> None:
        if self.path is None:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        row = {"key": key} | {name: value for name, value in asdict(reply).items() if value is not None}
        with FileLock(self.path.with_suffix(".lock")), self.path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            start = b"" if end == 0 or file.read(1) == b"\n" else b"\n"
            file.write(start + json.dumps(row).encode() + b"\n")


def _key(name: str, question: Question) -> str:
    return hashlib.sha256(json.dumps([name, asdict(question)]).encode()).hexdigest()
