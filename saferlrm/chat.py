"""Chat text: how a prompt is shown to a model in each thinking mode, and how its reply is taken apart.

Two families of chat templates can switch thinking off. *Qwen3 style* templates take ``enable_thinking`` and,
when it is false, close an empty thought themselves. *R1 style* templates always open the thought; it is
switched off by closing it at once (ZeroThink in SafeChain, arXiv 2502.12025). :class:`ChatFormat` hides the
difference.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from saferlrm.errors import SaferlrmError

ThinkingMode = Literal["off", "short", "on", "forced"]
THINKING_MODES: tuple[ThinkingMode, ...] = get_args(ThinkingMode)

_SENTINEL = "saferlrm sentinel"


@dataclass(frozen=True)
class Reply:
    """A completion taken apart.

    Attributes:
        thought: what stands inside the thought, without its tags; empty if there is none.
        answer: what the user sees, without stray tags; empty if the thought never closes.
        closed: ``False`` if a thought was opened and never closed.
    """

    thought: str
    answer: str
    closed: bool


@dataclass(frozen=True)
class ChatFormat:
    """The chat template of one tokenizer, seen through the four thinking modes.

    Attributes:
        tokenizer: the tokenizer whose template is used.
        switch: the template takes ``enable_thinking`` (Qwen3 style).
        opens: the template itself opens the thought (R1 style), so completions start inside it.
        end_of_turn: the token that ends the assistant's turn.
    """

    tokenizer: Any = field(repr=False, compare=False)
    switch: bool
    opens: bool
    end_of_turn: str
    think_open: str = "<think>"
    think_close: str = "</think>"

    # One canned sentence instead of a thought of the model's own (LessThink in SafeChain, arXiv 2502.12025).
    SHORT_THOUGHT = "I can answer this at once."

    @classmethod
    def detect(cls, tokenizer: Any) -> ChatFormat:
        """Find out how this tokenizer's chat template switches thinking.

        Raises:
            SaferlrmError: the tokenizer has no chat template, the template fails, or thinking cannot be
                switched off.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise SaferlrmError(
                "the tokenizer has no chat template; choose a chat model, or add one and save the tokenizer"
            )
        user = [{"role": "user", "content": _SENTINEL}]
        try:
            thinking = _apply(tokenizer, user, enable_thinking=True)
            silent = _apply(tokenizer, user, enable_thinking=False)
            reply = [*user, {"role": "assistant", "content": _SENTINEL}]
            tail = _apply(tokenizer, reply, generate=False).rpartition(_SENTINEL)[2]
        except Exception as error:  # templates are programs of others: Jinja errors of any kind
            reason = " ".join(str(error).split())
            raise SaferlrmError(
                f"the chat template fails ({reason}); choose another model or mend it"
            ) from error
        if _SENTINEL not in thinking:
            raise SaferlrmError("the chat template drops the user's message; choose another model or mend it")
        opens = thinking.rstrip().endswith(cls.think_open)
        switch = silent != thinking
        if not (opens or (switch and cls.think_close in silent.rpartition(_SENTINEL)[2])):
            raise SaferlrmError(
                "the chat template cannot switch thinking off (no enable_thinking, no <think>); "
                "choose a reasoning model such as Qwen/Qwen3-8B or deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
            )
        return cls(tokenizer, switch=switch, opens=opens, end_of_turn=_end_of_turn(tokenizer, tail))

    def render(self, prompt: str, mode: ThinkingMode = "on") -> str:
        """The text up to where the model continues; tokenise it with ``add_special_tokens=False``.

        ``off`` closes an empty thought, ``short`` closes one canned sentence, ``on`` and ``forced`` leave the
        thought to the model.
        """
        if mode not in THINKING_MODES:
            raise SaferlrmError(f"unknown thinking mode {mode!r}; choose one of {', '.join(THINKING_MODES)}")
        user = [{"role": "user", "content": prompt}]
        if mode == "off" and self.switch:
            return _apply(self.tokenizer, user, enable_thinking=False)
        text = _apply(self.tokenizer, user, enable_thinking=True)
        if mode == "off":
            return f"{text.rstrip()}\n\n{self.think_close}\n\n"
        if mode == "short":
            opened = text.rstrip() if self.opens else text + self.think_open
            return f"{opened}\n{self.SHORT_THOUGHT}\n{self.think_close}\n\n"
        return text

    def render_opened(self, prompt: str, opening: str) -> str:
        """``render(prompt, "on")`` with a thought that has begun with ``opening``; the model continues it."""
        text = self.render(prompt, "on")
        return f"{text.rstrip() if self.opens else text + self.think_open}\n{opening.strip()}"

    def prompt_span(self, prompt: str, mode: ThinkingMode = "on") -> tuple[int, int]:
        """Where the user's text stands in ``render(prompt, mode)``, as character offsets (start, end)."""
        before, _, after = self.render(_SENTINEL, mode).rpartition(_SENTINEL)
        text = self.render(prompt, mode)
        if not (text.startswith(before) and text.endswith(after)):
            raise SaferlrmError("the chat template changes with the user's text, so its place cannot be told")
        return len(before), len(text) - len(after)

    def split(self, completion: str, mode: ThinkingMode = "on") -> Reply:
        """Take a completion of ``render(prompt, mode)`` apart into thought and answer.

        A thought that never closes has no answer. A thought that closes twice ends at the *first* close: from
        there on the user sees the text, and calling it thought would hide it from a judge. A completion
        without any thought is all answer; so is one after the closed prefix of ``off`` and ``short``, unless
        the model opens a thought anew.
        """
        text = completion.partition(self.end_of_turn)[0]
        before, opened, rest = text.partition(self.think_open)
        if mode in ("on", "forced") and (self.opens or (not opened and self.think_close in text)):
            # The thought was opened by the template, or the model wrote only its end.
            before, opened, rest = "", self.think_open, text.removeprefix(self.think_open)
        if not opened:
            return Reply("", self._without_tags(text), True)
        thought, closed, after = rest.partition(self.think_close)
        answer = self._without_tags(f"{before}\n{after}")
        return Reply(self._without_tags(thought), answer, bool(closed))

    def target(self, thought: str | None, answer: str) -> str:
        """The assistant's text after ``render(prompt, "on")``, end of turn included; ``None`` is an empty
        thought.
        """
        inside = "\n\n" if thought is None else f"\n{thought.strip()}\n"
        if self.opens:
            inside = inside.removeprefix("\n")  # the template's own text ends in "<think>\n"
        opened = "" if self.opens else self.think_open
        return f"{opened}{inside}{self.think_close}\n\n{answer.strip()}{self.end_of_turn}"

    def _without_tags(self, text: str) -> str:
        return text.replace(self.think_open, "").replace(self.think_close, "").strip()


def _apply(tokenizer: Any, messages: list[dict[str, str]], generate: bool = True, **options: Any) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate, **options)


def _end_of_turn(tokenizer: Any, tail: str) -> str:
    """The first special token that the template writes after an assistant's message."""
    if tokenizer.eos_token and tokenizer.eos_token in tail:
        return tokenizer.eos_token
    ids = tokenizer(tail.strip(), add_special_tokens=False)["input_ids"]
    return tokenizer.convert_ids_to_tokens(ids[0]) if ids else (tokenizer.eos_token or "")
