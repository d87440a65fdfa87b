"""What an answer did: refuse, comply, or neither. Rules and language models that say so, and what they are worth."""

from __future__ import annotations

from saferlrm.judges.types import Judge, Judgement, Verdict
from saferlrm.judges.world import WorldJudge, is_refusal, judge, mentions

__all__ = ["Judge", "Judgement", "Verdict", "WorldJudge", "is_refusal", "judge", "mentions"]
