"""Sampling from a server that has only ``/chat/completions``: which of our prompts can be put as messages, and how.

Everywhere else a prompt is text that ends where the model goes on, with or without a thought in its mouth. A chat
endpoint writes that text itself, from messages and its template. So a prompt is taken apart into messages, and what the
template makes of them is compared with the prompt, letter by letter, before anything is sent:

- thinking ``on``, and ``off`` where the template has a switch (``chat_template_kwargs``): any server that reads them;
- a turn that has begun (``short``, ``off`` without a switch, prefilled and forced thoughts): only where the template
  leaves the beginning as it is and the server takes ``continue_final_message``, as vLLM and SGLang do.

Whatever cannot be put so is refused with the reason. Whether the server's template does what ours does is seen from one
request for each way of asking: the number of tokens it read must be that of the prompt. What comes back is made whole
again where the server has cut the thought out of it (``reasoning_content``, or ``reasoning``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from saferlrm.chat import ChatFormat
from saferlrm.endpoint import RefusedError
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Decoding

if TYPE_CHECKING:
    from saferlrm.server import ServerModel

_SENTINEL = "saferlrm sentinel"


@dataclass(frozen=True)
class Turn:
    """A prompt as a chat endpoint is asked it.

    Attributes:
        messages: the conversation; the assistant's comes last if its turn has begun.
        switch: keyword arguments of the chat template.
        begun: what stands in the assistant's turn already, the template's own opening of a thought included.
    """

    messages: tuple[dict[str, str], ...]
    switch: dict[str, bool]
    begun: str

    @property
    def continued(self) -> bool:
        return self.messages[-1]["role"] == "assistant"

    @property
    def way(self) -> str:
        """Prompts that are asked in one way stand or fall together with a server."""
        return "continued" if self.continued else repr(self.switch)

    def fields(self) -> dict[str, Any]:
        """What the request says besides the sampling."""
        found: dict[str, Any] = {"messages": list(self.messages)}
        if self.switch:
            found["chat_template_kwargs"] = self.switch
        if self.continued:
            found |= {"add_generation_prompt": False, "continue_final_message": True}
        return found


def turn_of(text: str, chat: ChatFormat) -> Turn:
    """The messages from which the model's own template makes exactly ``text``.

    Raises:
        SaferlrmError: there are none: the template would drop or change what stands in the model's mouth.
    """
    before, _, after = chat.render(_SENTINEL, "on").rpartition(_SENTINEL)
    header = after.rstrip().removesuffix(chat.think_open) if chat.opens else after
    prompt, found, begun = text.removeprefix(before).partition(header)
    if text.startswith(before) and found:
        messages = chat._messages(prompt)
        for switch in ({}, {chat.switch_name: True}, {chat.switch_name: False}):
            if _applied(chat, messages, add_generation_prompt=True, **switch) == text:
                return Turn(tuple(messages), switch, begun)
        # Some templates write an empty thought before the assistant's last message.
        bare = _applied(chat, [*messages, {"role": "assistant", "content": _SENTINEL}]).rpartition(_SENTINEL)[0]
        for content in (begun, text.removeprefix(bare) if text.startswith(bare) else ""):
            turn = [*messages, {"role": "assistant", "content": content}]
            if content.strip() and _applied(chat, turn, continue_final_message=True) == text:
                return Turn(tuple(turn), {}, begun)
    said = begun if len(begun) <= 40 else f"{begun[:37]}..."
    raise SaferlrmError(
        f"a chat endpoint cannot begin the model's turn with {said!r}: the chat template drops or changes it; "
        "sample from a server with /completions (vLLM and SGLang have it), or leave this thinking mode out of modes"
    )


def plain_turn(prompt: str, chat: ChatFormat) -> str:
    """The prompt as the template has it of its own accord, which every chat endpoint can be asked."""
    return _applied(chat, chat._messages(prompt), add_generation_prompt=True)


def _applied(chat: ChatFormat, messages: list[dict[str, str]], **options: Any) -> str:
    """What the template makes of messages; empty if it refuses them."""
    try:
        return chat.tokenizer.apply_chat_template(messages, tokenize=False, **options)
    except Exception:  # templates are programs of others; a message that the template drops is an error of transformers
        return ""


def check_server(lm: ServerModel, texts: list[str], ids: list[list[int]], forced: str | None) -> None:
    """See that the server reads these prompts as they are meant; each way of asking is tried once, with one token.

    Args:
        forced: the text with which thoughts will be kept open, if they will be.

    Raises:
        SaferlrmError: a prompt cannot be put as messages, or the server reads another text than ours.
    """
    first: dict[str, tuple[Turn, str, list[int]]] = {}
    for text, row in zip(texts, ids, strict=True):
        turn = turn_of(text, lm.chat)
        first.setdefault(turn.way, (turn, text, row))
        if forced is not None and "continued" not in first:
            opened = "" if lm.chat.think_open in turn.begun else f"{lm.chat.think_open}\n"
            longer = f"{text}{opened}{forced}"
            first["continued"] = (turn_of(longer, lm.chat), longer, lm.encode([longer])[0])
    for way, (turn, text, row) in first.items():
        if way not in lm.tried:
            _try(lm, turn, text, row)
            lm.tried.add(way)


def _try(lm: ServerModel, turn: Turn, text: str, ids: list[int]) -> None:
    url = lm.endpoint.url
    instead = "sample from a server with /completions (vLLM and SGLang have it)"
    asked = "continue_final_message" if turn.continued else "chat_template_kwargs"
    try:
        body = lm.body(lm.dialect, text, ids, Decoding(1), 1, 0, None)
        read = lm.endpoint.post("/chat/completions", body, _tokens_read)
    except RefusedError as refused:
        raise SaferlrmError(
            f"a chat endpoint cannot continue a thought unless it takes continue_final_message; {refused}; {instead}"
            if turn.continued
            else f"{refused}; {instead}"
        ) from refused
    if read is None and (turn.continued or turn.switch):
        raise SaferlrmError(
            f"{url} does not say how many tokens it read (usage.prompt_tokens), so nobody can tell whether it heeds "
            f"{asked}; {instead}"
        )
    if read is not None and read != len(ids):
        why = f"it does not heed {asked}, or" if turn.continued or turn.switch else "it has another template, or"
        raise SaferlrmError(f"{url} read {read} tokens where the prompt has {len(ids)}: {why} adds some; {instead}")


def _tokens_read(found: Any) -> int | None:
    read_choice(found)
    usage = found.get("usage")
    read = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return read if isinstance(read, int) else None


def read_choice(found: Any) -> tuple[dict[str, Any], Any]:
    """The choice and the usage in an answer; one of another shape raises an error that lets it be asked again."""
    choice = found["choices"][0]
    message = choice["message"]
    if not all(isinstance(message.get(name), str | None) for name in ("content", "reasoning_content", "reasoning")):
        raise TypeError("no text")
    if "finish_reason" not in choice:
        raise KeyError("finish_reason")
    return choice, found.get("usage")


def whole_text(message: dict[str, Any], begun: str, chat: ChatFormat) -> str:
    """What the model wrote after ``begun``, with the tags that a server's reasoning parser has cut out.

    A thought without an answer stays open: whether it closed cannot be told. If the thought was closed before the
    model wrote, a "thought" without an answer is the answer, which some parsers misplace.
    """
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    content = message.get("content") or ""
    if not thought:
        return content
    opened, closed = chat.think_open in begun, chat.think_close in begun
    if closed and not content:
        return thought
    rest = f"\n{chat.think_close}\n\n{content}" if content else ""
    return f"{thought}{rest}" if opened and not closed else f"{chat.think_open}\n{thought}{rest}"
