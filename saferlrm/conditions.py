"""The conditions of the evidence: what is trained, under which name, and on what every one of them is evaluated."""

from __future__ import annotations

# The light card: what tells methods apart, safe and unsafe alike.
CARD_SUITES = (
    "harmful_unseen",
    "harmful_novel_wrapped",
    "scary_contrast",
    "safe_but_scary",
    "benign_novel_wrapped",
    "reasoning",
)
