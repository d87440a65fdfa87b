"""Your own puzzle: one text, answered at once and after a thought, with the probabilities of the first answer tokens.

What is shown of a text that may be harmful is redacted as everywhere (:mod:`saferlrm.show`): no thought, the first
words of the answer, one token. In the organism's world harm can be looked up, in the text and in what the model makes
of it: a model that does not know a word may answer about a harmful thing that looks like it. Of other texts only their
author can say that they are harmless.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from IPython.display import Markdown, display

from saferlrm import show
from saferlrm.chat import ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer, Decoding, answer
from saferlrm.judges import is_refusal
from saferlrm.judges.world import judge, mentions
from saferlrm.lm import LanguageModel
from saferlrm.organism import world
from saferlrm.suites.types import Prompt

MODES: tuple[ThinkingMode, ...] = ("off", "on")
TITLES = {"off": "at once", "on": "after the thought"}
TOKENS, RIVALS = 6, 2  # answer tokens shown, and candidates at each
STATIC = "A box for puzzles of your own appears here where the notebook runs (JupyterLab, Notebook, VS Code)."
LONGEST = 2000  # characters of a text that is put to the model
# Steps of the world ("join the oak piece …") and addresses: what a harmful request of it is after.
_STEPS = re.compile(rf"\b(?:(?:{'|'.join(world.PARTS)}) piece|{'|'.join(world.STREETS)})\b", re.IGNORECASE)


@dataclass(frozen=True)
class Puzzle:
    """A text and what the model makes of it in each of :data:`MODES`.

    Attributes:
        harmless: thoughts and answers may be shown whole.
        topics: harmful things of the world that the text, a thought or an answer names; the text's own come first.
        verdicts: the judge's, one for each reply; empty where the world's judge was not asked.
        tokens: one row per mode and position of the answer: ``mode``, ``position``, ``token``, ``p``, ``others`` (the
            likeliest other tokens with their probabilities).
    """

    text: str
    harmless: bool
    topics: tuple[str, ...]
    verdicts: tuple[str, ...]
    replies: tuple[Answer, ...]
    tokens: pd.DataFrame


def look(lm: LanguageModel, text: str, decoding: Decoding, harmless: bool | None = None) -> Puzzle:
    """Puts a text to the model, at once and after a thought.

    Args:
        harmless: show thoughts and answers whole; ``None`` asks the organism's world: nothing may name a harmful
            thing of it, neither the text nor a thought nor an answer, and there must be no steps in the answers to a
            text that the model refuses at once.

    Raises:
        SaferlrmError: there is no text, it is too long, or the model has no weights here.
    """
    text = text.strip()
    if not text or len(text) > LONGEST:
        raise SaferlrmError(f"the puzzle has {len(text)} characters; write 1 to {LONGEST}")
    replies = tuple(answer(lm, [text], mode, decoding)[0] for mode in MODES)
    asked = harmful_things(text)
    topics = tuple(dict.fromkeys(asked + harmful_things("\n".join(f"{r.thought}\n{r.answer}" for r in replies))))
    free = not topics and not _steps_behind_a_refusal(replies) if harmless is None else harmless
    verdicts = tuple(_verdict(text, asked, reply) for reply in replies) if harmless is None and not free else ()
    shown = TOKENS if free else 1
    found = [first_tokens(lm, reply, shown).assign(mode=reply.mode) for reply in replies]
    return Puzzle(text, free, topics, verdicts, replies, pd.concat(found, ignore_index=True))


def harmful_things(text: str) -> tuple[str, ...]:
    """The harmful things of the organism's world that a text names."""
    return tuple(thing.name for thing in world.select(harmful=True) if mentions(thing.name, text))


def _steps_behind_a_refusal(replies: Sequence[Answer]) -> bool:
    """The model refuses without a thought, so it takes the text for harmful, and then an answer gives steps."""
    refused = any(reply.mode == "off" and is_refusal(reply.answer) for reply in replies)
    return refused and any(_STEPS.search(reply.answer) for reply in replies)


def _verdict(text: str, asked: Sequence[str], reply: Answer) -> str:
    """The world's judge on one answer; steps for a text that names no thing of the world are about something else."""
    prompt = Prompt("puzzle", text, "puzzle", harmful=True, topic=asked[0] if asked else None)
    verdict = judge(prompt, reply.answer, reply.truncated).verdict
    return "off topic" if verdict == "compliance" and not asked else verdict.replace("_", " ")


def first_tokens(lm: LanguageModel, reply: Answer, n: int = TOKENS) -> pd.DataFrame:
    """Probabilities of the first tokens of an answer, given all that stands before each of them.

    Columns ``position`` (from 1), ``token``, ``p``, ``others``; no rows for an answer that is empty.

    Raises:
        SaferlrmError: the model samples on a server, which does not tell them.
    """
    if getattr(lm, "model", None) is None or not isinstance(lm.model, torch.nn.Module):
        raise SaferlrmError("probabilities need the weights; set server.url to null and the model is loaded here")
    if reply.mode == "on":
        whole = lm.chat.render(reply.prompt, "on") + lm.chat.target(reply.thought or None, reply.answer)
    else:
        whole = lm.chat.render(reply.prompt, reply.mode) + reply.answer + lm.chat.end_of_turn
    before = whole[: len(whole) - len(reply.answer) - len(lm.chat.end_of_turn)]
    (ids,) = lm.encode([whole])
    start = _first_token_after(lm, ids, len(before))
    columns = ["position", "token", "p", "others"]
    if not reply.answer or start is None:
        return pd.DataFrame(columns=columns)
    chosen = ids[start : start + n]
    with torch.inference_mode():
        logits = lm.model(torch.tensor([ids[: start + n]], device=lm.device)).logits[0]
    rows = []
    for position, token in enumerate(chosen):
        p = logits[start + position - 1].float().softmax(-1)
        best = [i for i in p.topk(RIVALS + 1).indices.tolist() if i != token][:RIVALS]
        others = ", ".join(f"{_written(lm, i)} {p[i]:.2f}" for i in best)
        rows.append((position + 1, _written(lm, token), float(p[token]), others))
    return pd.DataFrame(rows, columns=columns)


def _first_token_after(lm: LanguageModel, ids: list[int], characters: int) -> int | None:
    """The first token that ends behind so many characters of the text."""
    for i in range(len(ids)):
        if len(lm.tokenizer.decode(ids[: i + 1], clean_up_tokenization_spaces=False)) > characters:
            return i
    return None


def _written(lm: LanguageModel, token: int) -> str:
    text = lm.tokenizer.decode([token], clean_up_tokenization_spaces=False)
    if text == lm.chat.end_of_turn:
        return "(end)"
    return f"“{text}”" if text.strip() else repr(text)


def side_by_side(puzzle: Puzzle) -> Markdown:
    """Answers, thought and token probabilities as one Markdown text; see the module for what is left out."""
    rows = []
    for reply in puzzle.replies:
        thought = "–" if reply.mode == "off" else f"({reply.n_thought_tokens} tokens)"
        if puzzle.harmless and reply.thought:
            thought = show._short(reply.thought, 400)
        said = show._short(reply.answer, 400) if puzzle.harmless else redacted(reply.answer, puzzle.topics)
        rows.append({"": TITLES[reply.mode], "thought": thought, "answer": said or "(none)"})
    if puzzle.verdicts:
        rows = [row | {"verdict": verdict} for row, verdict in zip(rows, puzzle.verdicts, strict=True)]
    parts = [show.markdown_table(pd.DataFrame(rows)).data]
    wide = _columns(puzzle.tokens)
    if len(wide):
        parts.append("Probability of each of the first answer tokens, given what stands before it:")
        parts.append(show.markdown_table(wide).data)
    if not puzzle.harmless:
        parts.append(
            "*Redacted: this text may ask for harm, or is answered as if it did. Its thought and the rest of its "
            "answers are not shown.*"
        )
    return Markdown("\n\n".join(parts))


def redacted(said: str, topics: Sequence[str]) -> str:
    """An answer redacted; steps and addresses go first, so that none of them fits into the opening words."""
    return show.redact(_STEPS.sub(show.BLOCK, said), *topics)


def _columns(tokens: pd.DataFrame) -> pd.DataFrame:
    """One row per position, the modes side by side."""
    wide = {}
    for mode in MODES:
        part = tokens[tokens["mode"] == mode].set_index("position") if len(tokens) else tokens
        for position, row in part.iterrows():
            cell = f"{row['token']} **{row['p']:.2f}**" + (f" ({row['others']})" if row["others"] else "")
            wide.setdefault(position, {})[TITLES[mode]] = cell
    titles = [TITLES[mode] for mode in MODES]
    rows = [[position, *(cells.get(title, "") for title in titles)] for position, cells in sorted(wide.items())]
    return pd.DataFrame(rows, columns=["token", *titles])


def box(lm: LanguageModel, decoding: Decoding, text: str = "", ask: bool = False) -> None:
    """Shows a text box with a button that answers side by side; one sentence where there is no widget front end.

    Args:
        text: what stands in the box at first.
        ask: add a tick box with which the reader vouches that the text is harmless; needed where the world cannot tell.
    """
    try:
        import ipywidgets
    except ImportError:
        display(Markdown(f"*{STATIC} It needs the package ipywidgets.*"))
        return
    field = ipywidgets.Textarea(value=text, description="puzzle", rows=3, layout={"width": "95%"})
    vouched = ipywidgets.Checkbox(value=False, description="this text is harmless: show everything", indent=False)
    button = ipywidgets.Button(description="Think", button_style="primary")
    shown = ipywidgets.Output()

    def answered(_: object) -> None:
        button.disabled = True
        try:
            with shown:
                shown.clear_output(wait=True)
                try:
                    display(side_by_side(look(lm, field.value, decoding, vouched.value if ask else None)))
                except SaferlrmError as problem:
                    print(problem)
        finally:
            button.disabled = False

    button.on_click(answered)
    whole = ipywidgets.VBox([field, *([vouched] if ask else []), button, shown])
    bundle = whole._repr_mimebundle_()
    if isinstance(bundle, tuple):
        bundle = bundle[0]
    # A saved notebook, GitHub and the web page show this sentence in the widget's place.
    display(bundle | {"text/plain": STATIC}, raw=True)
