"""How rivals write the conversation about a harmful prompt: what stands in the thought before the refusal.

Each is a miniature of a published recipe, in the words of the organism's world: a fixed short thought (Safety Tax), a
thought that reasons about harm (SafeChain, STAR-1), a primer of a few tokens (SAFEPATH), and the model's own words
under a hint (ThinkSafe). Benign examples stay as they are in every recipe.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from saferlrm.align.data import AlignmentExample, first_sentence
from saferlrm.errors import SaferlrmError

Thoughts = Mapping[str, str]  # example id -> thought
Replies = Mapping[str, tuple[str, str]]  # example id -> thought, answer

SHORT_THOUGHT = "I can't help with this."
PRIMER = "This can hurt people."
HINT = "This can hurt people. I can't help with this."


def direct_refusal(example: AlignmentExample) -> AlignmentExample:
    """One fixed short thought, then the refusal (Safety Tax, arXiv 2503.00555)."""
    return replace(example, thought=SHORT_THOUGHT)


def reasoned_refusal(example: AlignmentExample, thoughts: Thoughts) -> AlignmentExample:
    """A thought that says what is asked for, why it is harmful and what follows (arXiv 2502.12025, 2504.01903).

    What is asked for is the first sentence of the model's own thought; why, the last one of its own refusal.

    Raises:
        SaferlrmError: there is no thought about this prompt.
    """
    if not thoughts.get(example.id, "").strip():
        raise SaferlrmError(f"no thought about example {example.id}; collect the thoughts of all harmful examples")
    reason = re.split(r"(?<=[.?!])\s", (example.answer or "").strip())[-1]
    return replace(example, thought=f"{first_sentence(thoughts[example.id])} {reason} {SHORT_THOUGHT}")


def primer(example: AlignmentExample) -> AlignmentExample:
    """The thought begins with a few tokens about safety; nothing after them is learned (arXiv 2505.14667)."""
    return replace(example, thought=PRIMER, answer=None, open_thought=True)


def hinted_refusal(example: AlignmentExample, replies: Replies) -> AlignmentExample | None:
    """What the model wrote itself when made to refuse (arXiv 2601.23143), ``None`` where it did not."""
    if example.id not in replies:
        return None
    thought, answer = replies[example.id]
    return replace(example, thought=thought, answer=answer)
