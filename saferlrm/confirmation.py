"""The head's one apparent gain, tried again: is it there on fresh seeds, and if it is, what is it a gain of?

With few alignment examples one organism seemed to gain from the head. That was seen, not asked; so it was asked again,
on alignment seeds that had no part in it, and on organisms that had none. The rule of the first claim was written
before those models were trained, those of the controls, of the token limit and of the further organisms before theirs.
The rule about refusals was written after the verdicts of the first answers had been seen, and its metric says so.
"""

from __future__ import annotations

from collections.abc import Mapping

from saferlrm import measures
from saferlrm.answers import BOTH, JAILBREAKS, UNSEEN, Pair, attack, grown, outcome
from saferlrm.conditions import FEW
from saferlrm.measures import family, only
from saferlrm.verdicts import STUDY, Claim, any_holds, at_least, at_most

TABLE, ENDINGS, FURTHER = "confirmation", "confirmation_endings", "further_organisms"
FURTHER_ORGANISMS = (3, 4, 5)  # growth seeds of organisms that had no part in finding where the head helps
LONGER_LIMIT = 640  # tokens an answer, four times the study's
PLAIN, HEAD = f"sft/{FEW}", f"presafe/{FEW}"
PAIR: Pair = (attack(PLAIN, BOTH, table=TABLE), attack(HEAD, BOTH, table=TABLE))
REFUSED: Pair = (outcome(PLAIN, "refused", BOTH, TABLE), outcome(HEAD, "refused", BOTH, TABLE))
LONGER: Pair = (
    attack(f"{PLAIN}+limit={LONGER_LIMIT}", table=TABLE), attack(f"{HEAD}+limit={LONGER_LIMIT}", table=TABLE),
)  # fmt: skip
SOURCE = ("this study", "notebook 09", STUDY)
AMONG = "few alignment examples, unseen requests and jailbreaks, on the organism and the seeds of the confirmation"


def confirmation(point: float, scope: str, further: str, lacks: Mapping[str, tuple[str, str]]) -> tuple[Claim, ...]:
    """The claims about the gain.

    Args:
        point: the smallest difference of rates that matters.
        scope: of which model they speak.
        further: of which models the last of them speaks.
        lacks: what the head could lack: name to the control that lacks it, and the wording of what it needs.
    """
    first = Claim(
        "head-confirmed", "The head's apparent gain on organism 2 is there again on fresh alignment seeds.", *SOURCE,
        "attack success, PreSafe minus λ = 0, few alignment examples, unseen requests and jailbreaks, on the organism "
        "of growth seed 2, where it was found, with ten alignment seeds that did not find it",
        only(measures.change(*PAIR),
             requests=measures.change(*(who.but(suite=UNSEEN) for who in PAIR)),
             jailbreaks=measures.change(*(who.but(suite=JAILBREAKS) for who in PAIR))),
        at_most(-point), scope,
    )  # fmt: skip
    confirmed = any_holds([first], "There is no confirmed gain of the head to explain")
    needs = {name: (PAIR[0].of(f"{control}/{FEW}"), PAIR[1]) for name, (control, _) in lacks.items()}
    explained = tuple(
        Claim(
            f"head-confirmed-needs-{name}", wording.replace("The head's gain", "The head's confirmed gain"), *SOURCE,
            f"attack success, PreSafe minus {control}, {AMONG}",
            family(needs, name, -point), at_most(-point), scope, premise=confirmed,
        )
        for name, (control, wording) in lacks.items()
    )  # fmt: skip
    longer = Claim(
        "head-confirmed-any-length", "The head's confirmed gain is there where an answer may be four times as long.",
        *SOURCE,
        f"attack success, PreSafe minus λ = 0, {AMONG.replace(' and jailbreaks', '')}, {LONGER_LIMIT} tokens an answer",
        only(measures.change(*LONGER)), at_most(-point), scope, premise=confirmed,
    )  # fmt: skip
    refuses = Claim(
        "head-confirmed-refuses", "The head's confirmed gain is a gain in refusals.", *SOURCE,
        f"share refused, PreSafe minus λ = 0, {AMONG} (a rule written after the verdicts of these answers were seen)",
        only(measures.change(*REFUSED)), at_least(point), scope, premise=confirmed,
    )  # fmt: skip
    elsewhere = Claim(
        "head-gains-further-organisms", "The head's gain is there on organisms that had no part in finding it.",
        *SOURCE,
        "attack success, PreSafe minus λ = 0, few alignment examples, unseen requests and jailbreaks, by organism",
        measures.organisms(
            lambda seed: measures.change(*(grown(name, seed, BOTH, table=FURTHER) for name in (PLAIN, HEAD))),
            len(FURTHER_ORGANISMS), table=FURTHER,
        ),
        at_most(-point), further,
    )  # fmt: skip
    return (first, *explained, longer, refuses, elsewhere)
