"""The synthetic suites: prompts about the organism's world, each with gold labels, fixed by a seed.

Training conversations draw on *seen* things, phrasings, jailbreak families and word lists. Evaluation suites draw on
unseen ones (``harmful_seen`` excepted, which is the reference for what was refused in training), so they are disjoint
from all training text by construction. The classifier's and the alignment's prompts come from the training side.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Set

from saferlrm.errors import SaferlrmError
from saferlrm.organism import exchanges, world
from saferlrm.organism.exchanges import Exchange
from saferlrm.organism.problems import FAMILIES, MAX_DEPTH, make_problem
from saferlrm.suites.types import Prompt

Maker = Callable[[random.Random, int], Exchange]


def _know_how(harmful: bool, split: world.Split, phrasing: world.Split = "seen") -> Maker:
    def make(rng: random.Random, i: int) -> Exchange:
        pool = world.select(harmful=harmful, split=split)
        return exchanges.ask_know_how(pool[i % len(pool)], rng, phrasing)

    return make


def _wrapped(harmful: bool, split: world.Split, wrappers: world.Split) -> Maker:
    families = sorted(world.WRAPPERS[wrappers])

    def make(rng: random.Random, i: int) -> Exchange:
        pool = world.select(harmful=harmful, split=split)
        return exchanges.ask_know_how(rng.choice(pool), rng, wrapper=families[i % len(families)])

    return make


def _scary(unsafe: bool, split: world.Split) -> Maker:
    types = sorted(exchanges.SCARY_TYPES)

    def make(rng: random.Random, i: int) -> Exchange:
        return exchanges.SCARY_TYPES[types[i % len(types)]](rng, split)[unsafe]

    return make


SUITES: dict[str, tuple[str, Maker]] = {
    "harmful_seen": ("direct requests about things that were refused in training", _know_how(True, "seen")),
    "harmful_unseen": ("direct requests about things never seen refused", _know_how(True, "unseen")),
    "harmful_rephrased": ("unseen things in unseen phrasings", _know_how(True, "unseen", "unseen")),
    "harmful_wrapped": (
        "unseen things in jailbreak wrappers of seen families",
        _wrapped(True, "unseen", "seen"),
    ),
    "harmful_novel_wrapped": (
        "unseen things in jailbreak families never used in training",
        _wrapped(True, "unseen", "unseen"),
    ),
    "scary_contrast": ("the unsafe contrasts of safe_but_scary", _scary(True, "unseen")),
    "benign": ("direct requests about unseen benign things", _know_how(False, "unseen")),
    "benign_wrapped": (
        "benign requests in jailbreak wrappers of seen families",
        _wrapped(False, "unseen", "seen"),
    ),
    "benign_novel_wrapped": (
        "benign requests in the unseen jailbreak families",
        _wrapped(False, "unseen", "unseen"),
    ),
    "safe_but_scary": ("safe prompts that look unsafe, modelled on XSTest's types", _scary(False, "unseen")),
}
REASONING = "reasoning"
SUITE_NAMES = (*SUITES, REASONING)
HARMFUL_SUITES = tuple(name for name in SUITES if name.startswith("harmful") or name == "scary_contrast")
BENIGN_SUITES = tuple(name for name in SUITES if name not in HARMFUL_SUITES)

# Harmful and harmless suites that differ in nothing but what is asked for: what probes and classifiers must separate.
CONTRASTS = {
    "direct": ("harmful_unseen", "benign"),
    "wrapped": ("harmful_wrapped", "benign_wrapped"),
    "novel_wrapped": ("harmful_novel_wrapped", "benign_novel_wrapped"),
    "scary": ("scary_contrast", "safe_but_scary"),
}
# Some scary pairs are plain requests, and obfuscation by capitals leaves the words as they are: neither may repeat a
# prompt of the suites named here.
_APART_FROM: dict[str, tuple[str, ...]] = {
    "harmful_novel_wrapped": ("harmful_unseen",),
    "scary_contrast": ("harmful_unseen", "harmful_novel_wrapped"),
    "benign_novel_wrapped": ("benign",),
    "safe_but_scary": ("benign", "benign_novel_wrapped"),
}


def describe(suite: str) -> str:
    """What a suite holds, in a few words."""
    return "reasoning problems of depth 1 to 6, two families" if suite == REASONING else SUITES[suite][0]


def build_suite(suite: str, size: int, seed: int = 0) -> list[Prompt]:
    """``size`` different prompts of one suite.

    Args:
        suite: one of ``SUITE_NAMES``.
        size: number of prompts; kinds, families and depths are balanced.
        seed: seed of the data; suites of different seeds differ, models of different seeds share their suites.

    Raises:
        SaferlrmError: the suite is unknown, or the world is too small for ``size`` different prompts.
    """
    if suite not in SUITE_NAMES:
        raise SaferlrmError(f"unknown suite {suite!r}; choose one of {', '.join(SUITE_NAMES)}")
    rng = random.Random(f"{suite}-{seed}")
    if suite == REASONING:
        return _unique(suite, size, lambda i: _problem(rng, i, suite, "unseen"))
    maker = SUITES[suite][1]
    others = (build_suite(other, size, seed) for other in _APART_FROM.get(suite, ()))
    taken = {prompt.text.lower() for prompts in others for prompt in prompts}
    return _unique(suite, size, lambda i: _prompt(maker(rng, i), i, suite), taken)


def training_prompts(n_harmful: int, n_benign: int, seed: int, role: str) -> list[Prompt]:
    """Prompts for training a classifier or an alignment, about *seen* things, families and fillers only.

    ``role`` ("classifier", "alignment") seeds a stream of its own. Half of the harmful prompts are direct, the rest
    wrapped (seen families) or unsafe contrasts; the benign half mirrors it, with a share of reasoning problems.
    """
    rng = random.Random(f"{role}-{seed}")
    direct, wrapped, scary = _know_how, _wrapped, _scary

    def harmful(i: int) -> Prompt:
        maker = (
            direct(True, "seen"),
            wrapped(True, "seen", "seen"),
            direct(True, "seen"),
            scary(True, "seen"),
        )[i % 4]
        return _prompt(maker(rng, rng.randrange(10_000)), i, f"{role}_harmful")

    def benign(i: int) -> Prompt:
        if i % 4 == 2:
            return _problem(rng, rng.randrange(10_000), f"{role}_benign", "seen")
        maker = (direct(False, "seen"), wrapped(False, "seen", "seen"), None, scary(False, "seen"))[i % 4]
        return _prompt(maker(rng, rng.randrange(10_000)), i, f"{role}_benign")

    return _unique(f"{role}_harmful", n_harmful, harmful) + _unique(f"{role}_benign", n_benign, benign)


def _prompt(exchange: Exchange, i: int, suite: str) -> Prompt:
    return Prompt(f"{suite}-{i:04d}", exchange.user, suite, exchange.harmful, exchange.topic, exchange.family)


def _problem(rng: random.Random, i: int, suite: str, split: world.Split) -> Prompt:
    problem = make_problem(rng, FAMILIES[i % len(FAMILIES)], i // len(FAMILIES) % MAX_DEPTH + 1, split)
    return Prompt(
        f"{suite}-{i:04d}",
        problem.question,
        suite,
        False,
        None,
        problem.family,
        problem.depth,
        problem.answer,
    )


def _unique(suite: str, size: int, make: Callable[[int], Prompt], taken: Set[str] = frozenset()) -> list[Prompt]:
    found: dict[str, Prompt] = {}
    for i in range(size):
        for _ in range(200):
            prompt = make(i)
            if prompt.text.lower() not in found and prompt.text.lower() not in taken:
                found[prompt.text.lower()] = prompt
                break
        else:
            raise SaferlrmError(
                f"the world holds fewer than {size} different prompts for {suite}; lower the suite size"
            )
    return list(found.values())
