"""One completion of a server: a single request, or several where a thought is forced longer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from saferlrm.chat_endpoint import read_choice, turn_of, whole_text
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Completion, Decoding
from saferlrm.journal import Journal

if TYPE_CHECKING:
    from saferlrm.server import ServerModel


@dataclass(frozen=True)
class _Piece:
    """One answer of the server: its text without a stop string, and whether it stopped at the end of the thought.

    ``ids`` are the tokens of the text, where the server says them: a text may have others than those sampled.
    """

    text: str
    n_tokens: int
    truncated: bool
    closed: bool = False
    ids: list[int] | None = None


@dataclass(frozen=True)
class Job:
    """One completion: a single request, or several where the thought is forced longer."""

    lm: ServerModel
    decoding: Decoding
    journal: Journal
    text: str
    ids: list[int]
    seed: int

    def run(self) -> Completion:
        limit = min(self.decoding.max_new_tokens, self.lm.limit - len(self.ids))
        if not self.decoding.forced_thought_tokens:
            piece = self._ask(self.text, self.ids, limit, watch=False)
            return Completion(piece.text, piece.n_tokens, piece.truncated)
        return self._forced(limit)

    def _forced(self, limit: int) -> Completion:
        """Budget forcing (s1, arXiv 2501.19393) from outside: stop at the end of thought, write ``wait``, go on."""
        close, (wait,) = self.lm.chat.think_close, self.lm.encode([self.decoding.wait])
        if not wait:
            raise SaferlrmError("decoding.wait is empty; give the text that replaces the end of thought")
        written, ids, used, waits, watch = "", list(self.ids), 0, 0, True
        while used < limit:
            watch = watch and used < self.decoding.forced_thought_tokens and waits < self.decoding.max_waits
            piece = self._ask(self.text + written, ids, limit - used, watch)
            written, used = written + piece.text, used + piece.n_tokens
            if not piece.closed:
                return Completion(written, used, piece.truncated)
            ids += piece.ids or self.lm.encode([piece.text])[0]
            if used - 1 < self.decoding.forced_thought_tokens:
                used -= 1  # the end of thought is not written
                room = wait[: limit - used]
                written += self.decoding.wait if len(room) == len(wait) else self.lm.tokenizer.decode(room)
                ids, used, waits = ids + room, used + len(room), waits + 1
            else:
                written, ids, watch = written + close, ids + self.lm.encode([close])[0], False
        return Completion(written, used, True)

    def _ask(self, text: str, ids: list[int], max_tokens: int, watch: bool) -> _Piece:
        """One request, or what the journal holds of it. ``watch`` stops at the end of the thought."""
        sampling = [self.decoding.temperature, self.decoding.top_p, self.decoding.top_k]
        asked = [self.lm.name, text, sampling, max_tokens, self.seed, watch]
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
        kept = self.journal.get(key)
        if isinstance(kept, dict) and kept.keys() == _Piece.__dataclass_fields__.keys():
            return _Piece(**kept)
        piece = self._request(text, ids, max_tokens, watch)
        self.journal.put(key, asdict(piece))
        return piece

    def _request(self, text: str, ids: list[int], max_tokens: int, watch: bool) -> _Piece:
        lm = self.lm
        stop = lm.chat.think_close if watch else None
        if lm.dialect != "ids":
            # Sampled tokens need not be those that a tokenizer would choose for their text; only the text travels here.
            ids = lm.encode([text])[0]
        body = lm.body(lm.dialect, text, ids, self.decoding, max_tokens, self.seed, stop)
        if lm.chats:
            choice, usage = lm.endpoint.post("/chat/completions", body, read_choice)
            written = whole_text(choice["message"], turn_of(text, lm.chat).begun, lm.chat)
        else:
            choice, usage = lm.endpoint.post("/completions", body, _choice)
            written = choice["text"]
        truncated = choice["finish_reason"] == "length"
        said = [choice[name] for name in ("stop_reason", "matched_stop") if name in choice]
        closed = watch and (written.endswith(stop) or stop in said)
        if closed:  # also where it is the last token that was allowed, which some servers call a lack of room
            written, truncated = written.removesuffix(stop), False
        elif watch and not truncated and not said:
            # The end of the turn, or an end of thought that the server cut off without a word: ask without the stop.
            free = self._request(text, ids, max_tokens, watch=False)
            before, close, _ = free.text.partition(stop)
            if not close:
                return free
            written, closed = before, True
            usage = None
        written = written.removesuffix(lm.chat.end_of_turn)
        counted = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if not isinstance(counted, int):
            counted = len(lm.encode([written])[0]) + (not truncated)
        said_ids = choice.get("token_ids") if closed and isinstance(usage, dict) else None
        return _Piece(written, counted, truncated, closed, self._before_close(said_ids))

    def _before_close(self, ids: Any) -> list[int] | None:
        """Sampled tokens up to the end of the thought, if the server told them."""
        (close,) = self.lm.encode([self.lm.chat.think_close])
        if not isinstance(ids, list) or len(close) != 1:
            return None
        return ids[:-1] if ids[-1:] == close else ids


def _choice(found: Any) -> tuple[dict[str, Any], Any]:
    """The completion in an answer; anything of another shape raises one of the errors that are repeated."""
    choice = found["choices"][0]
    if not isinstance(choice["text"], str) or "finish_reason" not in choice:
        raise TypeError("no text")
    return choice, found.get("usage")
