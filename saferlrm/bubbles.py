"""Conversations as chat bubbles: the prompt, each reply, and its thought folded and coloured token by token.

HTML with inline styles and no script. The structure carries the meaning (quotations, ``details``), so it can be read
where styles are stripped, as GitHub does; there the bars below a thought say what its colours say. Bubbles bring their
own ground and text colours, so that they look the same on a light and on a dark page. Terminals get plain text.

What a harmful prompt leads to is redacted as everywhere (:mod:`saferlrm.show`): opening words of prompt and answer, and
of the thought only a block for each token, all of one size, in the token's colour.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from saferlrm import show
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer
from saferlrm.plots.style import mode_name
from saferlrm.suites.types import Prompt
from saferlrm.thought_probe import Token

Score = Callable[[str, str], Sequence[Token]]  # from a prompt and its thought

LOW, MIDDLE, HIGH = "#56B4E9", "#E8E8E8", "#E69F00"  # p = 0, 0.5, 1; blue against orange, told apart by all eyes
INK, PAPER = "#1D2430", "#FFFFFF"  # text of a thought and the ground below it
USER, MODEL = ("#FFFFFF", "#005A8C"), ("#1D2430", "#EDF0F3")  # text and ground of the bubbles
BLOCK = "██"  # a redacted token, of whatever length
BARS = "▁▂▃▄▅▆▇█"
LONGEST = 600  # tokens or characters that are shown of a thought or answer; of more, beginning and end
WIDEST = 60  # bars in a row


@dataclass(frozen=True)
class Turn:
    """What the model said to one prompt in one thinking mode.

    Attributes:
        closed: ``False`` if the thought was opened and never closed.
        n_thought_tokens: length of the thought.
        verdict: what the judge says of the answer, if it was judged.
        tokens: the scored thought, or ``None`` if no probe has read it.
        who: which model speaks, where several answer one prompt.
    """

    mode: str
    thought: str
    answer: str
    closed: bool = True
    n_thought_tokens: int = 0
    verdict: str | None = None
    tokens: Sequence[Token] | None = None
    who: str = "Model"

    def __post_init__(self) -> None:
        if self.tokens is not None and "".join(token.text for token in self.tokens) != self.thought:
            raise SaferlrmError("the scored tokens are not those of the thought; score the thought that is shown")


@dataclass(frozen=True)
class Bubbles:
    """Prompts with the model's turns; as the last line of a cell it is shown as bubbles."""

    exchanges: tuple[tuple[Prompt, tuple[Turn, ...]], ...]

    def html(self) -> str:
        """One piece of HTML, with a legend of the colours if anything is coloured."""
        parts = [part for prompt, turns in self.exchanges for part in _exchange(prompt, turns)]
        if any(turn.tokens for _, turns in self.exchanges for turn in turns):
            parts.append(_legend())
        # The classes keep MathJax from reading dollar signs of the model as formulas.
        style = "max-width:48em;overflow-wrap:anywhere"
        return f'<div class="mathjax_ignore tex2jax_ignore" style="{style}">{"".join(parts)}</div>'

    def text(self) -> str:
        """The same as plain text; bars stand for the colours."""
        return "\n\n".join("\n".join(_plain(prompt, turns)) for prompt, turns in self.exchanges)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.text()}


def from_card(
    card: pd.DataFrame, prompts: Sequence[Prompt], score: Score | None = None, modes: Sequence[str] | None = None
) -> Bubbles:
    """Bubbles of some prompts of a scorecard.

    Args:
        card: a scorecard with one sample for each prompt and mode.
        score: what scores a thought, e.g. :func:`saferlrm.thought_scores.scorer`.
        modes: thinking modes to show, by default all that the card has.

    Raises:
        SaferlrmError: the card has no such prompt.
    """
    made = []
    for prompt in prompts:
        part = card[card["prompt_id"] == prompt.id]
        rows = list(part[part["mode"].isin(modes)].itertuples() if modes is not None else part.itertuples())
        if not rows:
            raise SaferlrmError(f"the scorecard has no answer to {prompt.id}; choose one of its prompts and modes")
        turns = tuple(
            Turn(
                row.mode,
                row.thought,
                row.answer,
                closed=not (row.truncated and row.thought and not row.answer),
                n_thought_tokens=int(row.n_thought_tokens),
                verdict=row.verdict.replace("_", " "),
                tokens=score(prompt.text, row.thought) if score and row.thought else None,
            )
            for row in rows
        )
        made.append((prompt, turns))
    return Bubbles(tuple(made))


def from_answers(
    replies: Sequence[Answer] | Mapping[str, Answer], prompt: Prompt, score: Score | None = None
) -> Bubbles:
    """Bubbles of the answers to one prompt: one for each thinking mode, or, by name, one for each of several models."""
    named = replies.items() if isinstance(replies, Mapping) else (("Model", reply) for reply in replies)
    turns = tuple(
        Turn(
            reply.mode,
            reply.thought,
            reply.answer,
            reply.closed,
            reply.n_thought_tokens,
            tokens=score(prompt.text, reply.thought) if score and reply.thought else None,
            who=who,
        )
        for who, reply in named
    )
    return Bubbles(((prompt, turns),))


def colour(p: float) -> str:
    """The colour of a probability, from blue over grey to orange."""
    p = min(1.0, max(0.0, p))
    start, end, share = (LOW, MIDDLE, 2 * p) if p < 0.5 else (MIDDLE, HIGH, 2 * p - 1)
    mixed = [round(a + (b - a) * share) for a, b in zip(_rgb(start), _rgb(end), strict=True)]
    return "#{:02X}{:02X}{:02X}".format(*mixed)


def contrast(one: str, other: str) -> float:
    """Contrast of two colours as WCAG 2 defines it, from 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def bars(tokens: Sequence[Token]) -> str:
    """The scores as a row of bars; of a long thought, each bar is the mean of a stretch."""
    parts = np.array_split([token.p for token in tokens], min(WIDEST, len(tokens))) if tokens else []
    return "".join(BARS[min(len(BARS) - 1, int(part.mean() * len(BARS)))] for part in parts)


def _exchange(prompt: Prompt, turns: Sequence[Turn]) -> Iterator[str]:
    yield _bubble(_who("User", _kind(prompt), USER) + _paragraph(_request(prompt), USER), USER, "0.7em 0 0.5em 15%")
    for turn in turns:
        inside = _who(turn.who, ", ".join(_manner(turn)), MODEL) + _thought(turn, prompt.harmful)
        yield _bubble(inside + _paragraph(_said(turn, prompt), MODEL), MODEL, "0.5em 15% 0.5em 0")


def _bubble(inside: str, colours: tuple[str, str], margin: str) -> str:
    text, ground = colours
    style = (
        f"margin:{margin};padding:0.6em 0.9em;border:1px solid {ground};border-radius:0.9em;background-color:{ground};"
        f"color:{text};font-style:normal"
    )
    return f'<blockquote style="{style}">{inside}</blockquote>'


# Themes set the colour of paragraphs inside quotations, so every element says its own.
def _who(name: str, what: str, colours: tuple[str, str]) -> str:
    style = f"margin:0 0 0.3em;color:{colours[0]};font-size:90%"
    return f'<p style="{style}"><strong style="color:{colours[0]}">{_safe(name)}</strong> · {_safe(what)}</p>'


def _paragraph(text: str, colours: tuple[str, str]) -> str:
    return f'<p style="margin:0.3em 0 0;color:{colours[0]}">{_safe(text)}</p>'


def _thought(turn: Turn, harmful: bool) -> str:
    """The folded thought, a remark on an empty one, or nothing where the mode has none."""
    small = f'style="margin:0.4em 0 0;color:{INK};font-size:90%"'
    if not turn.thought:
        told = "Its thought is empty." if turn.closed else "It opened a thought and wrote nothing."
        return f"<p {small}><em>{told}</em></p>" if turn.mode in ("on", "forced") else ""
    lines = [f'<p style="margin:0.4em 0 0;color:{INK};line-height:1.7">{_inside(turn, harmful)}</p>']
    if turn.tokens:
        row = f"The same as bars, from the first token to the last: {bars(turn.tokens)}"
        lines.append(f'<p style="margin:0.4em 0 0;color:{INK};font-size:90%">{row}</p>')
    box = f"margin:0.3em 0;padding:0.4em 0.7em;border:1px solid #8A93A0;border-radius:0.5em;background-color:{PAPER}"
    summary = f'<summary style="color:{INK};cursor:pointer">{_safe(_about(turn, harmful))}</summary>'
    return f'<details style="{box};color:{INK}">{summary}{"".join(lines)}</details>'


def _inside(turn: Turn, harmful: bool) -> str:
    if turn.tokens is None:
        return "(not shown)" if harmful else _safe(_cut(turn.thought))
    n = len(turn.tokens)
    drawn = [_span(token, f"token {i} of {n}", harmful) for i, token in enumerate(turn.tokens, 1)]
    between = " " if harmful else ""  # blocks need a place to break the line
    if n > LONGEST:
        ends = (between.join(part) for part in (drawn[: LONGEST // 2], drawn[-(LONGEST // 2) :]))
        return f" … ({n - 2 * (LONGEST // 2)} tokens left out) … ".join(ends)
    return between.join(drawn)


def _span(token: Token, place: str, redacted: bool) -> str:
    ground = colour(token.p)
    ink, text = (ground, BLOCK) if redacted else (INK, _safe(token.text))
    title = f"{place}: p(harmful) {token.p:.2f}"
    return f'<span title="{title}" style="background-color:{ground};color:{ink}">{text}</span>'


def _legend() -> str:
    steps = " ".join(
        f'<span style="background-color:{colour(p)};color:{INK};padding:0 0.6em">{p:g}</span>'
        for p in (0, 0.25, 0.5, 0.75, 1)
    )
    told = "p(harmful): what the probe makes of the thought up to a token; point at the token for its number."
    ground = f"background-color:{PAPER};color:{INK};padding:0.3em 0.6em;border-radius:0.5em;font-size:90%"
    return f'<p style="margin:0.5em 0;{ground}">{steps} {told}</p>'


def _plain(prompt: Prompt, turns: Sequence[Turn]) -> Iterator[str]:
    yield f"User ({_kind(prompt)}): {_request(prompt)}"
    for turn in turns:
        yield f"{turn.who} ({', '.join(_manner(turn))}):"
        if turn.thought:
            yield f"  [{_about(turn, prompt.harmful)}]"
            if not prompt.harmful:
                yield f"  {_cut(' '.join(turn.thought.split()))}"
            if turn.tokens:
                yield f"  {bars(turn.tokens)}"
        elif turn.mode in ("on", "forced"):
            yield "  [Its thought is empty.]"
        yield f"  {' '.join(_said(turn, prompt).split())}"


def _kind(prompt: Prompt) -> str:
    return f"{prompt.id}, harmful, redacted" if prompt.harmful else prompt.id


def _request(prompt: Prompt) -> str:
    return show.redact(prompt.text, prompt.topic) if prompt.harmful else _cut(prompt.text)


def _said(turn: Turn, prompt: Prompt) -> str:
    if not turn.answer:
        return "(no answer)"
    return show.redact(turn.answer, prompt.topic) if prompt.harmful else _cut(turn.answer)


def _manner(turn: Turn) -> list[str]:
    return [mode_name(turn.mode), *([turn.verdict] if turn.verdict else [])]


def _about(turn: Turn, harmful: bool) -> str:
    """What the folded thought says of itself."""
    n = len(turn.tokens) if turn.tokens else turn.n_thought_tokens
    told = f"Thought of {n} tokens" + (", redacted" if harmful else "")
    if turn.tokens:
        p = np.array([token.p for token in turn.tokens])
        half = -(-len(p) // 2)
        told += f"; mean p(harmful) {p[:half].mean():.2f} in its first half"
        told += f", {p[half:].mean():.2f} in its second" if len(p) > 1 else ""
    return told + ("" if turn.closed else "; it never ends")


def _cut(text: str) -> str:
    half = LONGEST // 2
    return (
        text
        if len(text) <= LONGEST
        else f"{text[:half]} … ({len(text) - 2 * half} characters left out) … {text[-half:]}"
    )


def _safe(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def _luminance(colour: str) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in _rgb(colour))]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))
