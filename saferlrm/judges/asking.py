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
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from math import exp
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import AutoModelForCausalLM

from saferlrm.endpoint import KEY, Endpoint, RefusedError, UnansweredError
from saferlrm.errors import SaferlrmError
from saferlrm.journal import Journal
from saferlrm.lm import load_tokenizer
from saferlrm.placement import out_of_memory
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
            except Exception as error:  # libraries say in several ways that memory is used up
                if not out_of_memory(error):
                    raise
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
                    tokenizer = load_tokenizer(self.name)
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
    """An OpenAI-compatible server behind an :class:`saferlrm.endpoint.Endpoint`, which repeats what may pass.

    A question that fails for good is reported as failed; a server that fails many in a row is given up with an error,
    and what it has said is kept.
    """

    FIRST_WAIT = 1.0

    def __init__(self, url: str, name: str, settings: ServerSettings | None = None) -> None:
        self.name, self.settings = name, settings or ServerSettings()
        limits = {"timeout": self.settings.timeout, "retries": self.settings.retries}
        self.endpoint = Endpoint(url, **limits, parallel=self.settings.parallel, first_wait=self.FIRST_WAIT)

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
                    place, (reply, answered) = running.pop(future), future.result()
                    lost = 0 if answered else lost + 1
                    yield place, reply
                    if lost < patience and (following := next(places, None)) is not None:
                        running[pool.submit(self._one, questions[following])] = following
        if lost >= patience:
            raise SaferlrmError(
                f"the judge's server failed {lost} times in a row ({reply.failed}); see to it and run again: what it "
                "has judged is kept"
            )

    def _one(self, question: Question) -> tuple[Reply, bool]:
        """The reply, and whether the server answered at all."""
        path, body = "/completions", {"prompt": question.text}
        if question.messages:
            path = "/chat/completions"
            body = {"messages": [{"role": role, "content": content} for role, content in question.messages]}
        body |= {"model": self.name, "max_tokens": question.max_new_tokens, "temperature": 0}
        body |= {"logprobs": 20} if question.choices else {}
        try:
            return self.endpoint.post(path, body, lambda found: _usable(found, question)), True
        except RefusedError as error:
            if error.status in (401, 403, 404):
                raise SaferlrmError(f"{error}; check judge.url, judge.model and {KEY}") from error
            return Reply(failed=str(error)), True
        except UnansweredError as error:
            return Reply(failed=str(error)), False


def _usable(body: Any, question: Question) -> Reply:
    """What a server's JSON says; fails if it has another shape."""
    choice = body["choices"][0]
    if question.choices:
        mass = dict.fromkeys(question.choices, 0.0)
        for token, logprob in choice["logprobs"]["top_logprobs"][0].items():
            if token.strip() in mass:
                mass[token.strip()] += exp(logprob)
        return Reply(probabilities=tuple(mass.values()))
    text = choice["message"]["content"] if question.messages else choice["text"]
    return Reply(text=str(text or ""))


def replies(backend: Backend, questions: Sequence[Question], what: str, kept: Path | None = None) -> list[Reply]:
    """A reply to every question; equal ones are asked once, and those in the file ``kept`` not at all.

    Args:
        what: says what is going on beside the progress bar.
    """
    keys = [_key(backend.name, question) for question in questions]
    with Journal(kept) as journal:
        known = {key: _read(record) for key in keys if (record := journal.get(key)) is not None}
        missing = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        order = list(missing)
        if missing:
            for place, reply in track(backend.ask(list(missing.values())), what, len(missing)):
                known[order[place]] = reply
                if reply.failed is None:
                    journal.put(order[place], {k: v for k, v in asdict(reply).items() if v is not None})
    return [known[key] for key in keys]


def _read(record: dict[str, Any]) -> Reply:
    numbers = record.get("probabilities")
    return Reply(record.get("text"), tuple(numbers) if numbers else None)


def _key(name: str, question: Question) -> str:
    return hashlib.sha256(json.dumps([name, asdict(question)]).encode()).hexdigest()
