"""What an answer did: refuse, comply, or neither. Rules and language models that say so, and what they are worth.

The organism's answers are judged by the rules of its world (:mod:`~saferlrm.judges.world`). Answers to published
prompts are judged by refusal rules (:mod:`~saferlrm.judges.rules`) or by a language model
(:mod:`~saferlrm.judges.models`); how well a judge agrees with people, and what its errors do to a rate, is measured in
:mod:`~saferlrm.judges.calibration`.
"""

from __future__ import annotations

from saferlrm.judges.types import Judge, Judgement, Verdict
from saferlrm.judges.world import WorldJudge, is_refusal, judge, mentions

# No more than the organism's judge: what is imported here, every stage of the organism's study depends on.
__all__ = ["Judge", "Judgement", "Verdict", "WorldJudge", "is_refusal", "judge", "mentions"]
