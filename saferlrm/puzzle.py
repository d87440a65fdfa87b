"""Your own puzzle: one text, answered at once and after a thought, with the probabilities of the first answer tokens.

What is shown of a text that may be harmful is redacted as everywhere (:mod:`saferlrm.show`): no thought, the first
words of the answer, one token. In the organism's world harm can be looked up; of other texts only their author can
say that they are harmless.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from IPython.display import Markdown, display

from saferlrm import show
from saferlrm.chat import ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.generate import Answer, Decoding, answer
from saferlrm.judges.world import mentions
from saferlrm.lm import LanguageModel
from saferlrm.organism import world

MODES: tuple[ThinkingMode, ...] = ("off", "on")
TITLES = {"off": "at once", "on": "after the thought"}
TOKENS, RIVALS = 6, 2  # answer tokens shown, and candidates at each
STATIC = "A box for puzzles of your own appears here where the notebook runs (JupyterLab, Notebook, VS Code)."
LONGEST = 2000  # characters of a text that is put to the model


@dataclass(frozen=True)
class Puzzle:
    """A text and what the model makes of it in each of :data:`MODES`.

    Attributes:
        harmless: thoughts and answers may be shown whole.
        tokens: one row per mode and position of the answer: ``mode``, ``position``, ``token``, ``p``, ``others`` (the
            likeliest other tokens with their probabilities).
    """

    text: str
    harmless: bool
    topic: str | None
    replies: tuple[Answer, ...]
    tokens: pd.DataFrame


def look(lm: LanguageModel, text: str, decoding: Decoding, harmless: bool | None = None) -> Puzzle:
    """Puts a text to the model, at once and after a thought.

    Args:
        harmless: show thoughts and answers whole; ``None`` looks the text's things up in the organism's world.

    Raises:
        SaferlrmError: there is no text, it is too long, or the model has no weights here.
    """
    text = text.strip()
    if not text or len(text) > LONGEST:
        raise SaferlrmError(f"the puzzle has {len(text)} characters; write 1 to {LONGEST}")
    topic = harmful_thing(text)
    free = topic is None if harmless is None else harmless
    replies = tuple(answer(lm, [text], mode, decoding)[0] for mode in MODES)
    shown = TOKENS if free else 1
    found = [first_tokens(lm, reply, shown).assign(mode=reply.mode) for reply in replies]
    return Puzzle(text, free, topic, replies, pd.concat(found, ignore_index=True))


def harmful_thing(text: str) -> str | None:
    """The first harmful thing of the organism's world that a text names, or ``None``."""
    return next((thing.name for thing in world.select(harmful=True) if mentions(thing.name, text)), None)


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
        said = show._short(reply.answer, 400) if puzzle.harmless else show.redact(reply.answer, puzzle.topic)
        rows.append({"": TITLES[reply.mode], "thought": thought, "answer": said or "(none)"})
    parts = [show.markdown_table(pd.DataFrame(rows)).data]
    wide = _columns(puzzle.tokens)
    if len(wide):
        parts.append("Probability of each of the first answer tokens, given what stands before it:")
        parts.append(show.markdown_table(wide).data)
    if not puzzle.harmless:
        parts.append("*Redacted: this text may ask for harm. Its thought and the rest of its answers are not shown.*")
    return Markdown("\n\n".join(parts))


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
