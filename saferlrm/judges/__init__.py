"""What an answer did: refuse, comply, or neither. Rules and language models that say so, and what they are worth.

The organism's answers are judged by the rules of its world (:mod:`~saferlrm.judges.world`). Answers to published
prompts are judged by refusal rules (:mod:`~saferlrm.judges.rules`) or by a language model
(:mod:`~saferlrm.judges.models`); how well a judge agrees with people, and what its errors do to a rate, is measured in
:mod:`~saferlrm.judges.calibration`.
"""

from __future__ import annotations

from pathlib import Path

from saferlrm.errors import SaferlrmError
from saferlrm.judges.rules import RuleJudge, refusal_class, string_match
from saferlrm.judges.types import Judge, Judgement, Verdict
from saferlrm.judges.world import WorldJudge, is_refusal, judge, mentions
from saferlrm.profile import JudgeSettings, ServerSettings

__all__ = [
    "Judge", "Judgement", "RuleJudge", "Verdict", "WorldJudge", "is_refusal", "judge", "make_judge", "mentions",
    "refusal_class", "string_match",
]  # fmt: skip


def make_judge(
    settings: JudgeSettings, server: ServerSettings | None = None, cache: Path | None = None, device: str = "auto"
) -> Judge:
    """The judge of answers to published prompts that ``settings`` name.

    Args:
        server: how many requests at once, retries and timeout, where ``settings.url`` names a server.
        cache: file of JSON lines for what language models replied; ``None`` keeps it in memory.
        device: where a local language model goes.

    Raises:
        SaferlrmError: settings that contradict each other.
    """
    if settings.kind == "rules":
        if settings.reads_thought:
            raise SaferlrmError("rules read answers only; set judge.reads_thought to false or judge.kind to a model")
        return RuleJudge()
    from saferlrm.judges.models import model_judge  # torch and transformers are slow to import

    return model_judge(settings, server, cache, device)
