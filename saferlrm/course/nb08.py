"""Exercises of notebook 08, mechanism."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _states() -> list[Case]:
    rng = np.random.default_rng(0)
    return [
        Case((np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([1.0, 0.0])), "a direction of length 1"),
        Case((np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([0.0, 10.0])), "a direction of length 10"),
        Case((rng.normal(size=(3, 5)).round(2), rng.normal(size=5).round(2))),
        Case((np.array([[2.0, 2.0]]), np.array([-3.0, -3.0])), "a state that lies along the direction"),
    ]


def _shifts() -> list[Case]:
    rng = np.random.default_rng(1)
    before = rng.normal(size=(4, 6)).round(2)
    return [
        Case((np.zeros((2, 2)), np.array([[3.0, 4.0], [2.0, 0.0]]), np.array([1.0, 0.0]))),
        Case((before, before + rng.normal(size=(4, 6)).round(2), 7 * rng.normal(size=6).round(2)), "a long direction"),
        Case((np.ones((2, 2)), np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([0.0, 1.0])), "one latent did not move"),
        Case((np.zeros((1, 2)), np.array([[-5.0, 0.0]]), np.array([2.0, 0.0])), "moved against the direction"),
    ]


def _padded() -> list[Case]:
    hidden = np.arange(24, dtype=float).reshape(2, 4, 3)
    return [
        Case((hidden, np.array([[1, 1, 1, 1], [1, 1, 1, 1]])), "no padding"),
        Case((hidden, np.array([[1, 1, 0, 0], [1, 1, 1, 1]])), "padding on the right"),
        Case((hidden, np.array([[0, 0, 1, 1], [1, 1, 1, 1]])), "padding on the left"),
        Case((hidden, np.array([[1, 0, 0, 0], [0, 0, 0, 1]])), "both, in one batch"),
    ]


def known_table(rows: list[tuple[str, int, int, int]]) -> pd.DataFrame:
    """Rows (condition, harmful, knows, refused)."""
    table = pd.DataFrame(rows, columns=["condition", "harmful", "knows", "refused"])
    return table.astype({"harmful": bool, "knows": bool, "refused": bool})


def _known() -> list[Case]:
    rows = [("before", 1, 1, 0), ("before", 1, 1, 0), ("before", 1, 1, 1), ("before", 1, 0, 0), ("before", 0, 1, 0)]
    return [
        Case((known_table([*rows, ("presafe", 1, 1, 1), ("presafe", 0, 0, 0)]), "before")),
        Case((known_table([*rows, ("presafe", 1, 1, 1), ("presafe", 1, 0, 0)]), "presafe"), "another model"),
        Case((known_table([("before", 1, 1, 0), ("before", 1, 0, 1), ("before", 0, 1, 0)]), "before")),
    ]


EXERCISES = (
    Exercise(
        id="08.1",
        kind="implement",
        title="Taking a direction away",
        stars=1,
        minutes=10,
        function="remove",
        statement="""
        Project a direction out of hidden states: $h \\leftarrow h - (\\hat r^{\\top} h)\\,\\hat r$ (arXiv
        2406.11717). The
        direction that you are given need not have length 1, and what is left must be at a right angle to it.
        """,
        hint="`H @ r_hat` gives one number a state; `np.outer` makes states of them again.",
        imports=("import numpy as np",),
        starter='''
        def remove(H: np.ndarray, r: np.ndarray) -> np.ndarray:
            """States H [n, d] without their part along r [d]."""
            return None  # your code
        ''',
        solution='''
        def remove(H: np.ndarray, r: np.ndarray) -> np.ndarray:
            """States H [n, d] without their part along r [d]."""
            r_hat = r / np.linalg.norm(r)
            return H - np.outer(H @ r_hat, r_hat)
        ''',
        learned="Removing takes away a different amount from every state, adding gives every state the same. A "
        "direction "
        "of length 10 without normalisation removes a hundred times too much, and breaks the model instead "
        "of the refusal.",
        cases=_states,
        mistakes=(
            Mistake("def remove(H, r):\n    return H - np.outer(H @ r, r)",
                    "The direction has not been brought to length 1."),
            Mistake("def remove(H, r):\n    return H - r / np.linalg.norm(r)",
                    "That subtracts the same vector from every state; asked for is each state's own part along it."),
            Mistake("def remove(H, r):\n    return np.outer(H @ (r / np.linalg.norm(r)), r / np.linalg.norm(r))",
                    "That is the part along the direction; asked for is what is left."),
        ),
    ),
    Exercise(
        id="08.2",
        kind="implement",
        title="Which share of a shift lies along a direction",
        stars=2,
        minutes=15,
        function="share_along",
        statement="""
        Write the share of the theory above, $(\\hat r^{\\top}\\Delta h)^2 / \\lVert\\Delta h\\rVert^2$, for each
        prompt. A
        latent that has not moved has the share 0. What would a random direction get?
        """,
        hint="Squares of projections over sums of squares. Guard the division: "
        "`np.divide(a, b, out=np.zeros_like(a), where=b > 0)`.",
        imports=("import numpy as np",),
        starter='''
        def share_along(before: np.ndarray, after: np.ndarray, r: np.ndarray) -> np.ndarray:
            """Share [n] of each squared shift that lies along r [d]; latents [n, d]."""
            return None  # your code
        ''',
        solution='''
        def share_along(before: np.ndarray, after: np.ndarray, r: np.ndarray) -> np.ndarray:
            """Share [n] of each squared shift that lies along r [d]; latents [n, d]."""
            shift = after - before
            along = (shift @ r / np.linalg.norm(r)) ** 2
            whole = (shift**2).sum(axis=1)
            return np.divide(along, whole, out=np.zeros_like(whole), where=whole > 0)
        ''',
        learned="A random direction gets 1/d on average. In 128 dimensions a share of 10 % is therefore a lot, "
        "although "
        "90 % of the shift is something else.",
        cases=_shifts,
        mistakes=(
            Mistake(
                """
                def share_along(before, after, r):
                    shift = after - before
                    along, whole = (shift @ r) ** 2, (shift**2).sum(axis=1)
                    return np.divide(along, whole, out=np.zeros_like(whole), where=whole > 0)
                """,
                "The direction has not been brought to length 1.",
            ),
            Mistake(
                """
                def share_along(before, after, r):
                    shift = after - before
                    along, whole = shift @ r / np.linalg.norm(r), np.linalg.norm(shift, axis=1)
                    return np.divide(along, whole, out=np.zeros_like(whole), where=whole > 0)
                """,
                "That is the cosine; the share is its square.",
            ),
            Mistake(
                """
                def share_along(before, after, r):
                    shift = after - before
                    return (shift @ r / np.linalg.norm(r)) ** 2 / (shift**2).sum(axis=1)
                """,
                "A latent that has not moved gives 0/0; its share is 0.",
            ),
        ),
    ),
    Exercise(
        id="08.3",
        kind="find the bug",
        title="The state of a padding token",
        stars=2,
        minutes=15,
        function="last_states",
        statement="""
        A probe should read the last *real* token of every prompt in a batch. This function reads padding wherever it
        stands on the right, and the probe learns from the length of the prompts. Mend it for both sides of padding.
        """,
        hint="You want the *largest position* at which the mask is 1. Counting ones gives that for one side only.",
        imports=("import numpy as np",),
        starter='''
        def last_states(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
            """States [batch, d] of the last real tokens; hidden [batch, length, d], mask 1 for real tokens."""
            return hidden[:, -1]
        ''',
        solution='''
        def last_states(hidden: np.ndarray, mask: np.ndarray) -> np.ndarray:
            """States [batch, d] of the last real tokens; hidden [batch, length, d], mask 1 for real tokens."""
            last = (mask * np.arange(mask.shape[1])).argmax(axis=1)
            return hidden[np.arange(len(hidden)), last]
        ''',
        learned="An extraction that reads the wrong token does not fail; its probe just works less well, or well for "
        "the "
        "wrong reason. Decode the token that was read, for one short and one long prompt.",
        cases=_padded,
        mistakes=(
            Mistake(
                """
                def last_states(hidden, mask):
                    return hidden[np.arange(len(hidden)), mask.sum(axis=1) - 1]
                """,
                "Right for padding on the right; with padding on the left, counting tokens leads to one in the middle.",
            ),
            Mistake(
                """
                def last_states(hidden, mask):
                    return (hidden * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1)[:, None]
                """,
                "That is the mean over all real tokens.",
            ),
            Mistake(
                """
                def last_states(hidden, mask):
                    return hidden[np.arange(len(hidden)), mask.argmax(axis=1)]
                """,
                "That is the *first* real token.",
            ),
        ),
    ),
    Exercise(
        id="08.4",
        kind="measure",
        title="Knowing and doing",
        stars=1,
        minutes=10,
        function="knows_and_answers",
        statement="""
        Of the harmful prompts whose harm the latent of the unaligned model *holds* (`knows`), which share is not
        refused?
        Guess, then measure.
        """,
        hint="First keep the rows that the sentence is about (model, harmful, knows), then take one mean.",
        imports=("import pandas as pd",),
        guess="your guess: a share, 0 to 1",
        on=("known", '"before"'),
        starter='''
        def knows_and_answers(known: pd.DataFrame, condition: str) -> float:
            """Share not refused among the harmful prompts whose harm the latent holds."""
            return None  # your code
        ''',
        solution='''
        def knows_and_answers(known: pd.DataFrame, condition: str) -> float:
            """Share not refused among the harmful prompts whose harm the latent holds."""
            held = known[(known["condition"] == condition) & known["harmful"] & known["knows"]]
            return float(1 - held["refused"].mean())
        ''',
        learned="A conditional share answers *does it act on what it holds?*; the share of all harmful prompts would "
        "mix "
        "that with how often it holds it.",
        cases=_known,
        mistakes=(
            Mistake(
                """
                def knows_and_answers(known, condition):
                    own = known[(known["condition"] == condition) & known["harmful"]]
                    return float((own["knows"] & ~own["refused"]).mean())
                """,
                "That is a share of all harmful prompts; asked for is one of those whose harm is held.",
            ),
            Mistake(
                """
                def knows_and_answers(known, condition):
                    held = known[(known["condition"] == condition) & known["knows"]]
                    return float(1 - held["refused"].mean())
                """,
                "Harmless prompts have been counted, too.",
            ),
            Mistake(
                """
                def knows_and_answers(known, condition):
                    held = known[(known["condition"] == condition) & known["harmful"] & known["knows"]]
                    return float(held["refused"].mean())
                """,
                "That is the share that *is* refused.",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Set `group` to `"novel_wrapped"`. Is harm as readable under a jailbreak that no training contained?
2. *(20 minutes)* From `shift`, compare `presafe` with `detached`. Which part of the shift is the head's?
3. *(30 minutes)* With `saferlrm.steering.steer`, add the direction at *all* tokens. What breaks first, safety or
   reasoning?
"""
