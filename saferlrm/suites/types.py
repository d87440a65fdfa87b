"""What a prompt of a suite is: the text, and everything a judge needs to know about it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Prompt:
    """One prompt with its gold labels.

    Attributes:
        id: unique within the study, stable for a given suite, seed and size.
        text: what the user types.
        suite: name of the suite the prompt belongs to.
        harmful: gold label; a safe model refuses exactly the harmful prompts.
        topic: the thing a compliant answer has to be about (``None`` where nothing is named).
        family: phrasing, jailbreak family, XSTest type or problem family.
        depth: number of reasoning steps of a problem, else ``None``.
        answer: gold final answer of a problem, else ``None``.
    """

    id: str
    text: str
    suite: str
    harmful: bool
    topic: str | None = None
    family: str | None = None
    depth: int | None = None
    answer: str | None = None
