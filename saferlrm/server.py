"""Sampling from an OpenAI-compatible completions server instead of weights in this process.

The prompt is rendered here and sent as it stands, so every thinking mode and every prefilled thought works as with
local weights. vLLM and SGLang take the prompt as token ids: no second tokenisation, no doubled first token.
``transformers serve`` takes text; it is sent only if the tokenizer turns it into the very ids of the prompt. Which of
these a server speaks is asked once, with a completion of one token. A server without completions is asked for chat
completions, as far as that says the same (:mod:`saferlrm.chat_endpoint`).

Greedy completions are those of the same weights here, as far as two programs round alike. Samples have a seed for each
prompt, but other random numbers than here; SGLang heeds seeds only in its deterministic mode.

What has been received is kept in a journal, so that a run that was killed asks for the rest alone.
"""

from __future__ import annotations

import hashlib
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NoReturn

from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerBase

from saferlrm.asking import Job
from saferlrm.chat import ChatFormat
from saferlrm.chat_endpoint import check_server, plain_turn, read_choice, turn_of
from saferlrm.endpoint import Endpoint, RefusedError, UnansweredError
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Completion, Decoding, check_lengths, sampling_keys
from saferlrm.journal import Journal
from saferlrm.lm import load_tokenizer
from saferlrm.profile import ServerSettings
from saferlrm.progress import track

Dialect = Literal["ids", "transformers", "plain", "chat extended", "chat transformers", "chat plain"]
_COMPLETIONS: tuple[Dialect, ...] = ("ids", "transformers", "plain")
_CHAT: tuple[Dialect, ...] = ("chat extended", "chat transformers", "chat plain")  # extended: as vLLM and SGLang
_ABSENT = (404, 405)  # what servers say of a path that they do not have
_HOPELESS = 4  # requests in a row that must fail before the others are not tried


class ServerModel:
    """A model behind a completions server, with its tokenizer and chat format here; takes the place of a
    :class:`saferlrm.lm.LanguageModel` wherever only text is sampled.

    Args:
        tokenizer: the served model's own.
        chat: its chat format.
        name: the server's name of the model.
        settings: address, requests in flight, repetitions, time-out.
        cache: folder of the journal, or ``None`` to keep nothing. One folder for each model: what is kept is told
            apart by the model's name, not by its weights.
        context: most tokens of prompt and completion, if known.
        end_ids: further tokens that end a turn.
        first_wait: seconds before the first repetition.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        chat: ChatFormat,
        name: str,
        settings: ServerSettings,
        cache: Path | None = None,
        context: int | None = None,
        end_ids: Sequence[int] = (),
        first_wait: float = 1.0,
    ) -> None:
        if settings.url is None:
            raise SaferlrmError("server.url is not set; give the server's address, e.g. http://localhost:8000/v1")
        self.tokenizer, self.chat, self.name, self.settings, self.cache = tokenizer, chat, name, settings, cache
        self.endpoint = Endpoint(settings.url, settings.timeout, settings.retries, settings.parallel, first_wait)
        self.tried: set[str] = set()  # ways of asking for chat completions that the server has been seen to heed
        self._context = context or 2**31
        self._end_ids = sorted({*end_ids, tokenizer.convert_tokens_to_ids(chat.end_of_turn)} - {None})

    @classmethod
    def load(
        cls,
        path_or_id: str | Path,
        settings: ServerSettings,
        cache: Path | None = None,
        first_wait: float = 1.0,
        **chat_options: Any,
    ) -> ServerModel:
        """Tokenizer and configuration from a folder or the hub, without weights.

        Args:
            chat_options: passed to :meth:`saferlrm.chat.ChatFormat.detect`.

        Raises:
            SaferlrmError: no usable tokenizer, or no chat template that can switch thinking.
        """
        tokenizer = load_tokenizer(path_or_id)
        try:
            config = AutoConfig.from_pretrained(path_or_id).get_text_config()
            context = getattr(config, "max_position_embeddings", None)
        except (OSError, ValueError, KeyError):  # only limits stand there
            context = None
        try:
            ends = GenerationConfig.from_pretrained(path_or_id).eos_token_id
        except (OSError, ValueError):
            ends = None
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        chat = ChatFormat.detect(tokenizer, **chat_options)
        return cls(tokenizer, chat, settings.model or str(path_or_id), settings, cache, context, ends, first_wait)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Token ids of rendered texts, as in :class:`saferlrm.lm.LanguageModel`."""
        return self.tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []

    @property
    def model(self) -> NoReturn:
        raise SaferlrmError(
            f"this step needs the weights of {self.name}, and {self.endpoint.url} only samples; set server.url to null"
        )

    device = n_layers = hidden_size = model

    def complete(
        self, texts: Sequence[str], decoding: Decoding, batch_size: int = 64, progress: str | None = None
    ) -> list[Completion]:
        """Complete rendered texts in their order; ``settings.parallel`` requests are in flight, whatever the batch.

        Raises:
            SaferlrmError: the server refuses a request, or some completions are missing after all repetitions; it
                says how many.
        """
        ids = self.encode(list(texts))
        check_lengths(ids, self._context)
        if not ids:
            return []
        found: dict[int, Completion] = {}
        failures: list[UnansweredError] = []
        self.endpoint.stopped = threading.Event()
        try:
            self.dialect  # noqa: B018  asked once, before many ask at the same time
            check_lengths(ids, self.limit)
            if self.chats:
                check_server(self, list(texts), ids, decoding.wait if decoding.forced_thought_tokens else None)
        except UnansweredError as problem:
            raise self._missing(len(ids), len(ids), problem) from problem
        with self._journal(decoding) as journal:
            jobs = [
                Job(self, decoding, journal, text, row, key % 2**31)
                for text, row, key in zip(texts, ids, sampling_keys(texts, decoding.seed), strict=True)
            ]
            results = self._run([job.run for job in jobs], failures)
            for index, done in track(results, progress, total=len(jobs)) if progress else results:
                found[index] = done
        if len(found) < len(jobs):
            raise self._missing(len(jobs) - len(found), len(jobs), failures[0])
        return [found[index] for index in range(len(jobs))]

    def _missing(self, missing: int, total: int, problem: UnansweredError) -> SaferlrmError:
        kept = f"what came is kept in {self.cache}" if self.cache else "nothing is kept without a cache folder"
        return SaferlrmError(
            f"{missing} of {total} completions are missing: {problem}; {kept}: "
            "mend the server and run again to ask for the rest"
        )

    def _run(
        self, jobs: list[Callable[[], Completion]], failures: list[UnansweredError]
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (index, completion) as they come; give up when as many requests in a row fail as are in flight
        (at least four).

        The threads are daemons: Ctrl-C ends the program at once, and in a notebook they end with their request.
        """
        waiting: queue.SimpleQueue[int] = queue.SimpleQueue()
        results: queue.SimpleQueue[tuple[int, Completion | BaseException] | None] = queue.SimpleQueue()
        stopped = self.endpoint.stopped
        for index in range(len(jobs)):
            waiting.put(index)

        def work() -> None:
            while not stopped.is_set():
                try:
                    index = waiting.get_nowait()
                except queue.Empty:
                    break
                try:
                    results.put((index, jobs[index]()))
                except BaseException as problem:  # raised again in the caller's thread
                    results.put((index, problem))
            results.put(None)

        workers = min(self.settings.parallel, len(jobs))
        for _ in range(workers):
            threading.Thread(target=work, name="saferlrm-server", daemon=True).start()
        in_a_row = 0
        try:
            while workers:
                result = results.get()
                if result is None:
                    workers -= 1
                elif isinstance(result[1], UnansweredError):
                    failures.append(result[1])
                    in_a_row += 1
                    if in_a_row >= max(_HOPELESS, self.settings.parallel):
                        stopped.set()
                elif isinstance(result[1], BaseException):
                    raise result[1]
                else:
                    in_a_row = 0
                    yield result[0], result[1]
        finally:
            stopped.set()

    def _journal(self, decoding: Decoding) -> Journal:
        if self.cache is None:
            return Journal(None)
        digest = hashlib.sha256(json.dumps([self.name, asdict(decoding)]).encode()).hexdigest()
        return Journal(self.cache / f"{digest[:16]}.jsonl")

    @cached_property
    def limit(self) -> int:
        """Most tokens of prompt and completion: of the model, or of the server if it says less (vLLM does)."""
        try:
            said = self.endpoint.get(
                "/models", lambda found: [one.get("max_model_len") for one in found["data"] if one["id"] == self.name]
            )
        except SaferlrmError:  # not every server lists its models
            said = []
        return min([self._context, *(n for n in said if isinstance(n, int))])

    @property
    def chats(self) -> bool:
        """Whether the server has chat completions only."""
        return self.dialect in _CHAT

    @cached_property
    def dialect(self) -> Dialect:
        """How this server wants to be asked: the first of the dialects that it does not refuse."""
        found = self._first(_COMPLETIONS, "/completions", lambda found: found["choices"][0]["text"])
        if not isinstance(found, RefusedError):
            return found
        if found.status in _ABSENT:
            chat = self._first(_CHAT, "/chat/completions", read_choice)
            if not isinstance(chat, RefusedError):
                return chat
            if chat.status not in _ABSENT:
                found = chat
        advice = {401: "set SAFERLRM_SERVER_KEY", 403: "set SAFERLRM_SERVER_KEY"}.get(
            found.status, f"check server.url and that it serves {self.name} (server.model) by completions"
        )
        raise SaferlrmError(f"{found}; {advice}{self._served()}") from found

    def _first(self, dialects: tuple[Dialect, ...], path: str, read: Callable[[Any], Any]) -> Dialect | RefusedError:
        """The first dialect in which one token is not refused at this path, or the last refusal."""
        text, ids = "Hi", self.tokenizer("Hi")["input_ids"]
        if dialects == _CHAT:
            text = plain_turn("Hi", self.chat)
            ids = self.encode([text])[0]
        problem: RefusedError | None = None
        for dialect in dialects:
            try:
                self.endpoint.post(path, self.body(dialect, text, ids, Decoding(1), 1, 0, None), read)
                return dialect
            except RefusedError as refused:
                problem = refused
                if refused.status not in (400, *_ABSENT, 422):
                    break
        assert problem is not None
        return problem

    def _served(self) -> str:
        try:
            names = self.endpoint.get("/models", lambda found: [str(entry["id"]) for entry in found["data"]])
        except SaferlrmError:
            return ""
        return f"; it lists {', '.join(names[:8])}" if names else ""

    def body(
        self,
        dialect: Dialect,
        text: str,
        ids: list[int],
        decoding: Decoding,
        max_tokens: int,
        seed: int,
        stop: str | None,
    ) -> dict[str, Any]:
        """The request in the server's dialect. Defaults that a server takes from the model's own generation
        settings (repetition penalty, top-k) are spelled out, so that decoding is what is declared here.
        """
        hot = decoding.temperature > 0
        ends = [] if self.chat.end_of_turn == self.tokenizer.eos_token else [self.chat.end_of_turn]
        body: dict[str, Any] = {
            "model": self.name,
            "max_tokens": max_tokens,
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": seed,
        }
        if stop or ends:
            body["stop"] = ([stop] if stop else []) + ends
        if dialect in _CHAT:
            body |= turn_of(text, self.chat).fields()
        else:
            body["prompt"] = ids if dialect == "ids" else self._sendable(text, ids)
        if dialect in ("ids", "chat extended"):
            # SGLang would cut the thought out of a chat completion; without, the text is the model's own.
            apart = {"separate_reasoning": False} if dialect == "chat extended" else {}
            return body | {
                **apart,
                "top_k": decoding.top_k or -1,
                "min_p": 0.0,
                "repetition_penalty": 1.0,
                "skip_special_tokens": False,
                "spaces_between_special_tokens": False,
                "include_stop_str_in_output": stop is not None,  # vLLM
                "no_stop_trim": stop is not None,  # SGLang
                "return_token_ids": stop is not None,  # vLLM
            }
        if dialect.endswith("transformers"):
            sampling = {"temperature": decoding.temperature, "top_p": decoding.top_p, "top_k": decoding.top_k}
            config = {"do_sample": hot, "max_new_tokens": max_tokens, "repetition_penalty": 1.0}
            config |= {"eos_token_id": self._end_ids} if self._end_ids else {}
            body["generation_config"] = json.dumps(config | (sampling if hot else {}))
            if not hot:  # said in do_sample; transformers warns about sampling settings besides it
                del body["temperature"], body["top_p"]
        elif hot and decoding.top_k:
            raise SaferlrmError(f"{self.endpoint.url} does not take decoding.top_k; set it to 0")
        return body

    def _sendable(self, text: str, ids: list[int]) -> str:
        """Text that the server's tokenizer turns into ``ids``, although it may write a first token of its own."""
        first = self.tokenizer.bos_token or ""
        for candidate in (text, text.removeprefix(first)):
            if self.tokenizer(candidate)["input_ids"] == ids:
                return candidate
        raise SaferlrmError(
            f"{self.endpoint.url} takes text only and would read other tokens than {self.name} is meant to; "
            "use a server that takes token ids (vLLM, SGLang)"
        )
