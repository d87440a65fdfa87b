"""Exercises of notebook 01, reasoning before answering."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saferlrm.course.exercise import Case, Exercise, Mistake


def _votes() -> list[Case]:
    return [
        Case((["7", "8", "7"],)),
        Case((["Seven", " seven ", "8"],), "the same answer, written differently"),
        Case(([" 7", "7 ", "5"],), "the same answer, with spaces around it"),
        Case(([None, None, "3"],), "two samples gave no answer"),
        Case((["9", "5", "5", "9"],), "a tie"),
        Case(([None, None],), "no answer at all"),
        Case(([],), "no sample"),
    ]


def _logits() -> list[Case]:
    return [
        Case((np.array([1.0, 3.0, 2.9]), [1]), "the right token was written before"),
        Case((np.array([1.0, 3.0, 2.9]), [])),
        Case((np.array([2.0, 2.2, -1.0]), [0, 1, 1])),
        Case((np.array([1.0, 3.0, 2.9]), [1], 1.2), "a penalty is asked for"),
        Case((np.array([-1.0, -0.95, -4.0]), [0], 1.2), "negative logits"),
        Case((np.array([-2.0, -2.1]), [0, 0], 1.5), "negative logits, written twice"),
    ]


def solved_table(rows: list[tuple[int, int]]) -> pd.DataFrame:
    """Problems in two modes, from pairs (solved off, solved forced)."""
    made = []
    for i, pair in enumerate(rows):
        made += [
            {"prompt_id": f"p{i}", "mode": m, "correct": bool(c)} for m, c in zip(("off", "forced"), pair, strict=True)
        ]
    return pd.DataFrame(made)


def _solved() -> list[Case]:
    return [
        Case((solved_table([(1, 1), (1, 0), (0, 1), (0, 0)]),)),
        Case((solved_table([(1, 1), (0, 1), (0, 1)]),), "forcing never hurts"),
        Case((solved_table([(1, 0), (1, 0), (1, 1), (0, 1), (0, 1)]).sample(frac=1, random_state=1),), "shuffled rows"),
    ]


EXERCISES = (
    Exercise(
        id="01.1",
        kind="implement",
        title="Majority vote",
        stars=1,
        minutes=10,
        function="vote",
        statement="""
        Self-consistency (arXiv 2203.11171) samples several thoughts and lets their answers vote. Write the vote:
        answers
        are compared without case and outer spaces and returned in that form, `None` (a sample without an answer)
        does not
        vote, a tie goes to the answer that came first, and without any vote the result is `None`.
        """,
        hint="`collections.Counter` keeps the order in which it met its keys, and `most_common` keeps it for ties.",
        starter='''
        def vote(answers: list[str | None]) -> str | None:
            """The answer that most samples gave, in lower case."""
            return None  # your code
        ''',
        solution='''
        def vote(answers: list[str | None]) -> str | None:
            """The answer that most samples gave, in lower case."""
            given = [answer.strip().lower() for answer in answers if answer is not None]
            return max(given, key=given.count) if given else None
        ''',
        learned="What does not answer must not vote, or a model that often fails to answer votes for silence. `max` "
        "returns the first of equals, so that ties do not depend on the alphabet.",
        cases=_votes,
        mistakes=(
            Mistake(
                """
                def vote(answers):
                    given = [a and a.strip().lower() for a in answers]
                    return max(given, key=given.count) if given else None
                """,
                "Samples without an answer (None) have voted.",
            ),
            Mistake(
                """
                def vote(answers):
                    given = [a for a in answers if a is not None]
                    return max(given, key=given.count) if given else None
                """,
                "Case and outer spaces split the vote of one answer.",
            ),
            Mistake(
                """
                def vote(answers):
                    given = [a.lower() for a in answers if a is not None]
                    return max(given, key=given.count) if given else None
                """,
                "Outer spaces split the vote of one answer, or come back with it; `.strip()` takes them off.",
            ),
            Mistake(
                """
                def vote(answers):
                    given = sorted(a.strip().lower() for a in answers if a is not None)
                    return max(given, key=given.count) if given else None
                """,
                "The tie went to the alphabet, not to the answer that came first.",
            ),
        ),
    ),
    Exercise(
        id="01.2",
        kind="find the bug",
        title="A repetition penalty where digits must repeat",
        stars=2,
        minutes=15,
        function="next_token",
        statement="""
        A public evaluation of reasoning decoded with a repetition penalty of 1.2 (the idea is CTRL's, arXiv
        1909.05858).
        But a thought *must* repeat the numbers of its problem. Below is one step of greedy decoding. Mend two
        things: no
        penalty unless one is asked for, and a penalty, where it is wanted, must never make a token *more* likely.
        """,
        hint="Divide −1.0 by 1.2. Is the result larger or smaller?",
        imports=("import numpy as np",),
        starter='''
        def next_token(logits: np.ndarray, written: list[int], penalty: float = 1.2) -> int:
            """Index of the likeliest token; tokens already written are made less likely."""
            scores = logits.copy()
            for token in set(written):
                scores[token] /= penalty
            return int(scores.argmax())
        ''',
        solution='''
        def next_token(logits: np.ndarray, written: list[int], penalty: float = 1.0) -> int:
            """Index of the likeliest token; tokens already written are made less likely."""
            scores = logits.copy()
            for token in set(written):
                scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
            return int(scores.argmax())
        ''',
        learned="A decoding setting is part of the measurement. A penalty on repetition taxes thoughts, which repeat "
        "on "
        "purpose, and so makes reasoning look worse than it is; thinking on and off then differ in more than thinking.",
        cases=_logits,
        mistakes=(
            Mistake(
                """
                def next_token(logits, written, penalty=1.0):
                    scores = logits.copy()
                    for token in set(written):
                        scores[token] /= penalty
                    return int(scores.argmax())
                """,
                "The default is mended; but dividing a negative logit brings it nearer to 0, which makes it likelier.",
            ),
            Mistake(
                """
                def next_token(logits, written, penalty=1.2):
                    scores = logits.copy()
                    for token in set(written):
                        scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
                    return int(scores.argmax())
                """,
                "Negative logits are mended; but the penalty is still there when nobody asked for one.",
            ),
            Mistake("def next_token(logits, written, penalty=1.0):\n    return int(logits.argmax())",
                    "Now there is no penalty at all, not even when one is asked for."),
        ),
    ),
    Exercise(
        id="01.3",
        kind="measure",
        title="Where forced thinking hurts",
        stars=2,
        minutes=10,
        function="hurt_by_forcing",
        statement="""
        A paired gain is a *net* gain: it hides problems that were solved at once and lost by thinking. Between `off`
        and `forced` the two rates are nearly the same here. Guess first which share of all problems is solved at once
        and lost under `forced`, then measure it.
        """,
        hint="`solved.pivot(index=\"prompt_id\", columns=\"mode\", values=\"correct\")` gives one row a problem.",
        imports=("import pandas as pd",),
        guess="your guess: a share of all problems, 0 to 1",
        on=("solved",),
        starter='''
        def hurt_by_forcing(solved: pd.DataFrame) -> float:
            """Share of all problems solved with thinking off and not with forced thinking."""
            return None  # your code
        ''',
        solution='''
        def hurt_by_forcing(solved: pd.DataFrame) -> float:
            """Share of all problems solved with thinking off and not with forced thinking."""
            wide = solved.pivot(index="prompt_id", columns="mode", values="correct").astype(bool)
            return float((wide["off"] & ~wide["forced"]).mean())
        ''',
        learned="A net gain of 0 can mean that nothing changed, or that much changed in both directions. Look at both "
        "corners of the 2 × 2 table.",
        cases=_solved,
        mistakes=(
            Mistake(
                """
                def hurt_by_forcing(solved):
                    rate = solved.groupby("mode")["correct"].mean()
                    return float(max(0.0, rate["off"] - rate["forced"]))
                """,
                "That is the net loss; problems that thinking won have been set off against those it lost.",
            ),
            Mistake(
                """
                def hurt_by_forcing(solved):
                    wide = solved.pivot(index="prompt_id", columns="mode", values="correct").astype(bool)
                    return float((wide["off"] & ~wide["forced"]).sum() / wide["off"].sum())
                """,
                "That is the share of the problems solved at once; asked for is the share of all problems.",
            ),
            Mistake(
                """
                def hurt_by_forcing(solved):
                    wide = solved.pivot(index="prompt_id", columns="mode", values="correct").astype(bool)
                    return float((wide["forced"] & ~wide["off"]).mean())
                """,
                "That is where thinking helps.",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Write a *cups* problem of depth 2 in which the answer at once is wrong and the thought is right.
   Which short cut does the wrong answer reveal?
2. *(15 minutes)* What does an answer at once score by guessing alone? Work it out for *cups* from the number of
   cups, and for *totals* from the range of the answers, and compare with the table by family.
"""
