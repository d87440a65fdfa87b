"""Chat text: how a prompt is shown to a model in each thinking mode, and how its reply is taken apart.

Templates of reasoning models come in three styles, and :class:`ChatFormat` hides the difference:

- ``switch`` (Qwen3): the template takes ``enable_thinking`` and, when it is false, closes an empty thought itself.
- ``opens`` (DeepSeek-R1, its distillations, Skywork-OR1, QwQ): the template opens the thought, which is switched off
  by closing it at once (ZeroThink in SafeChain, arXiv 2502.12025). Older R1 templates do not open it; then
  ``<think>\\n`` is written after them, as DeepSeek advises, because the model now and then skips its thought unasked.
- ``tags``: the model opens the thought of its own accord; an empty thought is put in its mouth to switch it off.

Many templates delete the thoughts of earlier assistant turns (``drops_thoughts``). Conversations are shown to the model
as its template has them; the text that a model learns from is never sent through the template but written by
:meth:`ChatFormat.target`, so the thought stands in it whatever the template would do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from saferlrm.errors import SaferlrmError

ThinkingMode = Literal["off", "short", "on", "forced"]
THINKING_MODES: tuple[ThinkingMode, ...] = get_args(ThinkingMode)
ThinkingStyle = Literal["switch", "opens", "tags"]

# What a user says: one message, or messages {"role": ..., "content": ...} of which the user's comes last.
Conversation = str | Sequence[Mapping[str, str]]

_SENTINEL = "saferlrm sentinel"
_SECOND = "another sentinel"
_SWITCHES = ("enable_thinking", "thinking")  # Qwen3 and most others; DeepSeek-V3.1
_R1_HEADER = "<｜Assistant｜>"


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
        switch: the template takes a switch (Qwen3 style).
        opens: the rendered prompt ends in an open thought (R1 style), so completions start inside it.
        end_of_turn: the token that ends the assistant's turn.
        switch_name: the template's name of the switch.
        forces: the thought is opened here, because the template does not do it.
        after_open: white space between the opening tag and the thought where the prompt opens it.
        drops_thoughts: the template deletes the thoughts of earlier assistant turns.
        system_role: the template shows system messages; otherwise they are put before the first user message.
        system_prompt: first message of every conversation, or none.
    """

    tokenizer: Any = field(repr=False, compare=False)
    switch: bool
    opens: bool
    end_of_turn: str
    think_open: str = "<think>"
    think_close: str = "</think>"
    switch_name: str = "enable_thinking"
    forces: bool = False
    after_open: str = "\n"
    drops_thoughts: bool = False
    system_role: bool = True
    system_prompt: str | None = None

    # One canned sentence instead of a thought of the model's own (LessThink in SafeChain, arXiv 2502.12025).
    SHORT_THOUGHT = "I can answer this at once."

    @classmethod
    def detect(
        cls, tokenizer: Any, thinking: ThinkingStyle | Literal["auto"] = "auto", system_prompt: str | None = None
    ) -> ChatFormat:
        """Find out how this tokenizer's chat template switches thinking.

        Args:
            thinking: the style, or ``auto`` (setting ``loading.thinking``). With ``opens`` a template that leaves the
                thought to the model is followed by ``<think>``; ``tags`` is for models that write the tags although
                neither template nor vocabulary shows them.
            system_prompt: goes before every conversation (setting ``loading.system_prompt``).

        Raises:
            SaferlrmError: the tokenizer has no chat template, the template fails, or thinking cannot be
                switched off.
        """
        if thinking not in ("auto", *get_args(ThinkingStyle)):
            raise SaferlrmError(f"unknown loading.thinking {thinking!r}; choose auto, switch, opens or tags")
        if not getattr(tokenizer, "chat_template", None):
            raise SaferlrmError(
                "the tokenizer has no chat template; choose a chat model, or add one and save the tokenizer"
            )
        user = {"role": "user", "content": _SENTINEL}
        for name in _SWITCHES:
            on, off = (_apply(tokenizer, [user], **{name: value}) for value in (True, False))
            if on != off:
                break
        else:
            name = _SWITCHES[0]
        if _SENTINEL not in on:
            raise SaferlrmError("the chat template drops the user's message; choose another model or mend it")
        reply = [user, {"role": "assistant", "content": _SENTINEL}]
        tail = _apply(tokenizer, reply, generate=False).rpartition(_SENTINEL)[2]
        opens = on.rstrip().endswith(cls.think_open)
        style = cls._style(tokenizer, on, off) if thinking == "auto" else thinking
        cls._check_style(style, thinking, opens, on != off)
        thought = f"{cls.think_open}\n{_SECOND}\n{cls.think_close}\n\n{_SENTINEL}"
        return cls(
            tokenizer,
            switch=style == "switch",
            opens=opens or style == "opens",
            end_of_turn=_end_of_turn(tokenizer, tail),
            switch_name=name,
            forces=style == "opens" and not opens,
            after_open=on[len(on.rstrip()) :] if opens else "\n",
            drops_thoughts=not _shows(tokenizer, [user, {"role": "assistant", "content": thought}, user]),
            system_role=_shows(tokenizer, [{"role": "system", "content": _SECOND}, user]),
            system_prompt=system_prompt,
        )

    @classmethod
    def _style(cls, tokenizer: Any, on: str, off: str) -> ThinkingStyle | None:
        """The style that the template's behaviour and text show, ``None`` if there is no sign of thoughts."""
        header = on.rpartition(_SENTINEL)[2]
        opens = on.rstrip().endswith(cls.think_open)
        if on != off and (opens or cls.think_close in off.rpartition(_SENTINEL)[2]):
            return "switch"
        template = str(tokenizer.chat_template)
        # Older R1 templates: no tag in the prompt, but thoughts are cut from the assistant's turns.
        if opens or (header.rstrip().endswith(_R1_HEADER) and cls.think_close in template):
            return "opens"
        known = all(_in_vocabulary(tokenizer, tag) for tag in (cls.think_open, cls.think_close))
        return "tags" if known or cls.think_close in template else None

    @classmethod
    def _check_style(cls, style: str | None, thinking: str, opens: bool, switch: bool) -> None:
        if style is None:
            raise SaferlrmError(
                f"the chat template cannot switch thinking off (no enable_thinking, no {cls.think_open}); set "
                f"loading.thinking=tags if the model writes {cls.think_open} all the same, or choose a reasoning model "
                "such as Qwen/Qwen3-8B or deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
            )
        if style == "switch" and not switch:
            raise SaferlrmError("loading.thinking=switch, but the chat template has no switch; set it to auto")
        if style == "tags" and opens:
            raise SaferlrmError(
                f"loading.thinking={thinking}, but the chat template opens {cls.think_open} itself; set it to opens"
            )

    @property
    def style(self) -> ThinkingStyle:
        """How thinking is switched; see the module."""
        return "switch" if self.switch else "opens" if self.opens else "tags"

    def render(self, prompt: Conversation, mode: ThinkingMode = "on") -> str:
        """The text up to where the model continues; tokenise it with ``add_special_tokens=False``.

        ``off`` closes an empty thought, ``short`` closes one canned sentence, ``on`` and ``forced`` leave the
        thought to the model.

        Raises:
            SaferlrmError: an unknown mode, messages that are no conversation, or a template that refuses them.
        """
        if mode not in THINKING_MODES:
            raise SaferlrmError(f"unknown thinking mode {mode!r}; choose one of {', '.join(THINKING_MODES)}")
        messages = self._messages(prompt)
        if mode == "off" and self.switch:
            return _apply(self.tokenizer, messages, **{self.switch_name: False})
        text = _apply(self.tokenizer, messages, **{self.switch_name: True})
        if self.forces:
            text = f"{text}{self.think_open}{self.after_open}"
        if mode == "off":
            return f"{self._begun(text)}\n\n{self.think_close}\n\n"
        if mode == "short":
            return f"{self._begun(text)}\n{self.SHORT_THOUGHT}\n{self.think_close}\n\n"
        return text

    def render_opened(self, prompt: Conversation, opening: str) -> str:
        """``render(prompt, "on")`` with a thought that has begun with ``opening``; the model continues it."""
        return f"{self._begun(self.render(prompt, 'on'))}\n{opening.strip()}"

    def prefix(self, mode: ThinkingMode) -> str:
        """What a mode puts in the assistant's mouth: the text of its turn that is there before the model writes.

        ``forced`` begins as ``on`` does; the thought is kept open while it is sampled (budget forcing, see
        :class:`saferlrm.generate.Decoding`).
        """
        on, chosen = (self.render(_SENTINEL, m).rpartition(_SENTINEL)[2] for m in ("on", mode))
        header = on.rstrip().removesuffix(self.think_open) if self.opens else on
        return chosen.removeprefix(header)

    def prompt_span(self, prompt: Conversation, mode: ThinkingMode = "on") -> tuple[int, int]:
        """Where the user's (last) message stands in ``render(prompt, mode)``, as character offsets (start, end)."""
        text = self.render(prompt, mode)
        probe = _SENTINEL if isinstance(prompt, str) else [*prompt[:-1], {"role": "user", "content": _SENTINEL}]
        before, _, after = self.render(probe, mode).rpartition(_SENTINEL)
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
            for _ in self.after_open:
                inside = inside.removeprefix("\n")  # the prompt's own text ends in "<think>\n"
        opened = "" if self.opens else self.think_open
        return f"{opened}{inside}{self.think_close}\n\n{answer.strip()}{self.end_of_turn}"

    def _begun(self, text: str) -> str:
        """A rendering up to and with the opening tag, without what follows it."""
        return text.rstrip() if self.opens else text + self.think_open

    def _messages(self, prompt: Conversation) -> list[dict[str, str]]:
        """The messages that the template gets: the system prompt in front, or in the user's message if it must."""
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else _checked(prompt)
        system = [self.system_prompt] if self.system_prompt else []
        if messages[0]["role"] == "system":
            # One message of both: R1's templates show only the last system message.
            system.append(messages.pop(0)["content"])
        if not system:
            return messages
        if self.system_role:
            return [{"role": "system", "content": "\n\n".join(system)}, *messages]
        return [{"role": "user", "content": "\n\n".join([*system, messages[0]["content"]])}, *messages[1:]]

    def _without_tags(self, text: str) -> str:
        return text.replace(self.think_open, "").replace(self.think_close, "").strip()


def _checked(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """A copy of the messages of a conversation, or what keeps them from being one."""
    copy = [dict(message) for message in messages]
    roles = [message.get("role") for message in copy]
    if any(not isinstance(message.get("content"), str) for message in copy):
        raise SaferlrmError('a message has no text; give {"role": ..., "content": ...} with a string in both')
    talk = roles[1:] if roles[:1] == ["system"] else roles
    if not talk or talk[0] != "user" or talk[-1] != "user" or not set(talk) <= {"user", "assistant"}:
        raise SaferlrmError(
            f"a conversation has the roles {', '.join(map(str, roles)) or 'of no message'}; give an optional system "
            "message, then user and assistant in turn, the user's last"
        )
    return copy


def _apply(tokenizer: Any, messages: list[dict[str, str]], generate: bool = True, **options: Any) -> str:
    try:
        return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate, **options)
    except Exception as error:  # templates are programs of others: Jinja errors of any kind
        reason = " ".join(str(error).split())
        raise SaferlrmError(
            f"the chat template fails ({reason}); mend the messages or the template, or choose another model"
        ) from error


def _shows(tokenizer: Any, messages: list[dict[str, str]]) -> bool:
    """Whether the template accepts these messages and keeps the second sentinel in them."""
    try:
        return _SECOND in _apply(tokenizer, messages)
    except SaferlrmError:
        return False


def _in_vocabulary(tokenizer: Any, token: str) -> bool:
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def _end_of_turn(tokenizer: Any, tail: str) -> str:
    """The first special token that the template writes after an assistant's message."""
    if tokenizer.eos_token and tokenizer.eos_token in tail:
        return tokenizer.eos_token
    ids = tokenizer(tail.strip(), add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_ids_to_tokens(ids[0]) if ids else tokenizer.eos_token
    if not end:
        raise SaferlrmError("neither chat template nor tokenizer say what ends a turn; set the tokenizer's eos_token")
    return end
