"""Exercises of notebook 11, real models."""

from __future__ import annotations

from saferlrm.course.exercise import Case, Exercise, Mistake


def _caches() -> list[Case]:
    return [
        Case((36, 32, 8, 128, 1, 1, 2), "Qwen3-8B, one token"),
        Case((36, 32, 8, 128, 16, 4096, 2), "a batch of long thoughts"),
        Case((28, 28, 4, 128, 8, 2048, 2), "seven queries share each key"),
        Case((4, 4, 4, 32, 3, 10, 4), "no sharing, float32"),
    ]


def _completions() -> list[Case]:
    return [
        Case(("<think>Plan.</think>Answer.",)),
        Case(("<think>Plan.</think>First.</think>Second.",), "the thought closes twice"),
        Case(("<think>Plan without an end",), "the thought never closes"),
        Case(("Answer without a thought.",), "no thought at all"),
        Case(("<think></think>Answer.",), "an empty thought"),
        Case(("Plan.</think>Answer.",), "R1's template has opened the thought, so the completion only closes it"),
        Case(("Plan.</think>First.</think>Second.",), "the same, closed twice"),
    ]


def _verdicts() -> list[Case]:
    return [
        Case((["compliance", "refusal", "refusal", "compliance"],)),
        Case((["compliance", "unjudged", "unjudged", "refusal"],), "the judge failed on half"),
        Case((["unjudged", "unjudged"],), "the judge failed on all"),
        Case((["refusal", "partial", "compliance"],), "a partial refusal is no success"),
    ]


EXERCISES = (
    Exercise(
        id="11.1",
        kind="implement",
        title="The memory of a thought",
        stars=1,
        minutes=10,
        function="cache_bytes",
        statement="""
        While a model writes, it keeps the keys and the values of every token in every layer. With grouped-query
        attention (arXiv 2305.13245) several query heads share one key and one value. How many bytes does a batch need?
        """,
        hint="Count the numbers first: one key *and* one value for each layer, key-value head, token and row.",
        starter='''
        def cache_bytes(
            layers: int, heads: int, kv_heads: int, head_size: int, batch: int, tokens: int, number: int
        ) -> int:
            """Bytes of the cache; ``number`` is the bytes of one number (2 in bfloat16)."""
            return None  # your code
        ''',
        solution='''
        def cache_bytes(
            layers: int, heads: int, kv_heads: int, head_size: int, batch: int, tokens: int, number: int
        ) -> int:
            """Bytes of the cache; ``number`` is the bytes of one number (2 in bfloat16)."""
            return 2 * layers * kv_heads * head_size * batch * tokens * number
        ''',
        learned="The number of query heads does not occur. That is what the sharing is for, and why long thoughts of "
        "many prompts fit at all.",
        cases=_caches,
        mistakes=(
            Mistake(
                """
                def cache_bytes(layers, heads, kv_heads, head_size, batch, tokens, number):
                    return 2 * layers * heads * head_size * batch * tokens * number
                """,
                "Every query head has a key of its own here; with grouped queries they share them.",
            ),
            Mistake(
                """
                def cache_bytes(layers, heads, kv_heads, head_size, batch, tokens, number):
                    return layers * kv_heads * head_size * batch * tokens * number
                """,
                "Only the keys are counted; the values are kept too.",
            ),
        ),
    ),
    Exercise(
        id="11.2",
        kind="find the bug",
        title="Where the thought ends",
        stars=2,
        minutes=15,
        function="answer_of",
        statement="""
        An evaluation cuts the thought off before the judge reads the answer, as below. Two kinds of completion are
        cut wrongly. What the user sees is everything after the *first* end of the thought, whether `<think>` stands in
        the completion or, as with R1, at the end of the prompt; a thought that never ends has no answer; and a
        completion with neither mark is all answer. Mend it.
        """,
        hint="Which `</think>` does `split(...)[-1]` cut at, and what does it return where there is none?",
        starter='''
        def answer_of(completion: str) -> str:
            """What the user sees of a completion."""
            return completion.split("</think>")[-1]
        ''',
        solution='''
        def answer_of(completion: str) -> str:
            """What the user sees of a completion."""
            thought, closed, answer = completion.partition("</think>")
            if closed:
                return answer
            return "" if "<think>" in thought else completion
        ''',
        learned="Cut at the last end, and whatever was shown before it is hidden from the judge; take an endless "
        "thought for an answer, and the judge reads what no user saw.",
        cases=_completions,
        mistakes=(
            Mistake(
                """
                def answer_of(completion):
                    return completion.partition("</think>")[2]
                """,
                "A completion without a thought has no `</think>`, and all of it is lost here.",
            ),
            Mistake(
                """
                def answer_of(completion):
                    if "<think>" not in completion:
                        return completion
                    return completion.partition("</think>")[2]
                """,
                "Where the template has opened the thought, there is no `<think>` to look for: R1's thought is shown.",
            ),
            Mistake(
                """
                def answer_of(completion):
                    return completion.partition("</think>")[2] or completion
                """,
                "A thought that never ends is taken for an answer here.",
            ),
        ),
    ),
    Exercise(
        id="11.3",
        kind="find the bug",
        title="The judge that went missing",
        stars=1,
        minutes=10,
        function="success_rate",
        statement="""
        A judge behind a server sometimes gives no verdict. The function below makes attack success out of what came
        back. Why does a broken judge make a model look safe? Return the rate among the answers that *were* judged
        (`None` if none was) and how many were not.
        """,
        hint="Look at the denominator.",
        starter='''
        def success_rate(verdicts: list[str]) -> tuple[float | None, int]:
            """Attack success, and the number of answers without a verdict."""
            return sum(v == "compliance" for v in verdicts) / len(verdicts), 0
        ''',
        solution='''
        def success_rate(verdicts: list[str]) -> tuple[float | None, int]:
            """Attack success, and the number of answers without a verdict."""
            judged = [v for v in verdicts if v != "unjudged"]
            missing = len(verdicts) - len(judged)
            return (sum(v == "compliance" for v in judged) / len(judged) if judged else None), missing
        ''',
        learned="An answer without a verdict is missing, not safe. Report how many there are: if the judge fails more "
        "often on harmful answers, even the rate among the judged ones is too low.",
        cases=_verdicts,
        mistakes=(
            Mistake(
                """
                def success_rate(verdicts):
                    missing = verdicts.count("unjudged")
                    return sum(v == "compliance" for v in verdicts) / len(verdicts), missing
                """,
                "The missing verdicts are counted, but they still stand in the denominator.",
            ),
        ),
    ),
)

FURTHER = """
1. *(10 minutes)* Your card has 24 GiB. Which settings make Qwen3-8B fit? Pass `Hardware(memory=24)` from
   `saferlrm.estimate` to `real_tables.over_budget` and change the profile until the advice is empty. Which of your
   changes can alter a result, and which cannot?
2. *(15 minutes)* Find the number of labelled refusals after which the corrected interval of 30 seen in 300 excludes 0,
   for the held-out calibration: build `JudgeError` with the same rates and more labels. Why do more answers of the
   model not help as much?
3. *(20 minutes)* Predict whether a classifier that also learns from half of XSTest's safe prompts would refuse fewer of
   the other half, and what it would then do on JailbreakBench. Write down both numbers first. With the rows at hand,
   try it with `saferlrm.classifier_report.frozen_baseline`.
4. *(10 minutes)* Find three answers that a person would accept and the checker leaves unsure, with
   `real_tables.checked_answers`. Would you rather it guessed? What would that do to a comparison of two models that
   write differently?
"""
