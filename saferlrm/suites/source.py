"""Where prompts come from: the organism's world, or published data sets in the roles of the synthetic suites.

Notebooks, plots and claims know roles (``harmful_unseen``, ``benign_wrapped``, ...) and not sets:

========================  =============================================================
``harmful_unseen``        ``data.harmful``; of two or more sets, all but the last
``harmful_rephrased``     the last of them; of one set, rows held out of ``train_harmful``
``harmful_seen``          rows held out of ``data.train_harmful``
``benign``                ``data.benign``
``*_wrapped``             the same requests in jailbreak wrappers of the seen families
``*_novel_wrapped``       the same requests in those of the unseen families
``safe_but_scary``        ``data.scary``
``scary_contrast``        ``data.scary_contrast``
``reasoning``             ``data.reasoning``
========================  =============================================================

All training prompts come from ``data.train_harmful`` and ``data.train_benign``, in one shuffled order from which
different roles take different parts. What also stands in a suite, word for word or nearly, is left out before.
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import pandas as pd

from saferlrm.errors import SaferlrmError
from saferlrm.organism import world
from saferlrm.profile import DataSettings, Profile
from saferlrm.suites import overlap, published, synthetic
from saferlrm.suites.types import Prompt

# Prompts of each kind for the rivals' directions and for the choice of their settings (at most).
N_DIRECTION, N_VALIDATION = 128, 32
HELD_OUT_SHARE, HELD_OUT_MOST = 0.2, 1000  # of the harmful training prompts
_SETTINGS = {
    "validation": "evidence.suite_size",
    "steering": "probe.n_train",
    "probe": "probe.n_train",
    "classifier": "classifier.n_prompts",
    "alignment": "alignment.n_{kind}",
    "decision_only": "alignment.n_decision",
}


class Source(Protocol):
    """What a study asks of the place that its prompts come from."""

    def suites(self) -> dict[str, list[Prompt]]:
        """All evaluation suites, by the names of :mod:`saferlrm.suites.synthetic`."""

    def training_prompts(self, n_harmful: int, n_benign: int, role: str) -> list[Prompt]:
        """So many harmful and so many benign prompts for one role, harmful ones first."""

    def available(self, role: str) -> tuple[int, int] | None:
        """The most harmful and benign prompts that a role can have; ``None``: no fixed number."""

    def left_out(self, harmful: bool) -> int:
        """How many training prompts have a twin in a suite and are therefore used for nothing."""

    def key(self) -> dict[str, Any]:
        """What identifies all prompts in a stage's key."""

    def overlap_pairs(self) -> pd.DataFrame:
        """Training prompts that were left out because of a twin in a suite; see :mod:`saferlrm.suites.overlap`."""

    def overlap_report(self) -> pd.DataFrame:
        """Their counts by suite and kind."""


def source_of(profile: Profile) -> Source:
    """The source that a profile's section ``data`` names; published sets are read once in a process."""
    if profile.data.source == "synthetic":
        return SyntheticSource(profile)
    return PublishedSource(profile)


class SyntheticSource:
    """The organism's world."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def suites(self) -> dict[str, list[Prompt]]:
        size, seed = self.profile.suite_size, self.profile.data_seed
        return {name: synthetic.build_suite(name, size, seed) for name in synthetic.SUITE_NAMES}

    def training_prompts(self, n_harmful: int, n_benign: int, role: str) -> list[Prompt]:
        return synthetic.training_prompts(n_harmful, n_benign, self.profile.data_seed, role)

    def available(self, role: str) -> tuple[int, int] | None:
        return None

    def left_out(self, harmful: bool) -> int:
        return 0

    def key(self) -> dict[str, Any]:
        return {"data_seed": self.profile.data_seed}

    def overlap_pairs(self) -> pd.DataFrame:
        """Nothing is left out, because the world is split into seen and unseen things: these pairs are a check.

        Near-duplicates are phrasings that seen and unseen things share; ``harmful_seen`` is about seen things.
        """
        return overlap.find_overlap(self._training(), self.suites(), self.profile.data.near_duplicate)

    def overlap_report(self) -> pd.DataFrame:
        return overlap.report(self.overlap_pairs(), len(self._training()), self.suites()).assign(left_out=False)

    def _training(self) -> list[Prompt]:
        n = self.profile.classifier.n_prompts
        return self.training_prompts(n - n // 2, n // 2, "classifier")


class PublishedSource:
    """Published data sets: the suites and the training prompts of one profile, which share what is loaded.

    ``decision_only`` draws from the end of the order, so that its size does not move what the other roles get;
    ``alignment`` has what is left in the middle.
    """

    def __init__(self, profile: Profile) -> None:
        self.data, self.suite_size, self.seed = profile.data, profile.suite_size, profile.data_seed
        # Harmful prompts, and as many benign ones.
        self.front = {
            "validation": 3 * min(N_VALIDATION, profile.evidence.suite_size),
            "steering": min(N_DIRECTION, profile.probe.n_train // 2),
            "probe": -(-profile.probe.n_train // 2),
            "classifier": -(-profile.classifier.n_prompts // 2),
        }
        self.back = -(-profile.alignment.n_decision // 2)

    @property
    def prompts(self) -> PublishedPrompts:
        return published_prompts(self.data.model_dump_json(), self.seed)

    def suites(self) -> dict[str, list[Prompt]]:
        return {name: prompts[: self.suite_size] for name, prompts in self.prompts.suites.items()}

    def training_prompts(self, n_harmful: int, n_benign: int, role: str) -> list[Prompt]:
        drawn: list[Prompt] = []
        for harmful, n, most in zip((True, False), (n_harmful, n_benign), self.available(role), strict=True):
            kind, sets = ("harmful", "train_harmful") if harmful else ("benign", "train_benign")
            if n > most:
                raise SaferlrmError(
                    f"the role {role} needs {n} {kind} prompts but {', '.join(getattr(self.data, sets))} leave {most} "
                    f"for it; lower {_SETTINGS[role].format(kind=kind)} or name more sets in data.{sets}"
                )
            start, step = self._start(role, harmful), -1 if role == "decision_only" else 1
            drawn += [self.prompts.training(harmful, start + step * i, f"{role}_{kind}") for i in range(n)]
        return drawn

    def available(self, role: str) -> tuple[int, int]:
        if role not in _SETTINGS:
            raise SaferlrmError(f"unknown role {role!r} of training prompts; choose one of {', '.join(_SETTINGS)}")
        return self._most(role, True), self._most(role, False)

    def left_out(self, harmful: bool) -> int:
        return self.prompts.left_out[harmful]

    def key(self) -> dict[str, Any]:
        return {"data_seed": self.seed, "data": self.prompts.digest}

    def overlap_pairs(self) -> pd.DataFrame:
        return self.prompts.pairs

    def overlap_report(self) -> pd.DataFrame:
        found = self.prompts
        return overlap.report(found.pairs, found.n_compared, found.suites).assign(left_out=True)

    def _start(self, role: str, harmful: bool) -> int:
        if role == "decision_only":
            return len(self.prompts.pools[harmful]) - 1
        before = list(self.front)[: list(self.front).index(role)] if role in self.front else list(self.front)
        return sum(self.front[name] for name in before)

    def _most(self, role: str, harmful: bool) -> int:
        size, front = len(self.prompts.pools[harmful]), sum(self.front.values())
        if role == "decision_only":
            return max(0, min(self.back, size - front))
        left = size - self._start(role, harmful)
        return max(0, min(self.front[role], left) if role in self.front else left - self.back)


@functools.lru_cache(maxsize=2)
def published_prompts(data: str, seed: int) -> PublishedPrompts:
    """The prompts of a section ``data`` (as JSON), read once in a process: every condition of a study asks for them."""
    return PublishedPrompts(DataSettings.model_validate_json(data), seed)


class PublishedPrompts:
    """Suites and training prompts from published sets, whole.

    Attributes:
        suites: by name, in the order in which a smaller suite takes its first ones.
        pools: training prompts, harmful (``True``) and benign, in the order in which roles draw.
        pairs: the overlap that was removed from the pools; ``n_compared`` training prompts were looked at.
        left_out: how many were removed from each pool.

    Raises:
        SaferlrmError: a set cannot be loaded, or does not fit the role that it is named for.
    """

    def __init__(self, data: DataSettings, seed: int) -> None:
        self.data, self.seed = data, seed
        for role in ("scary", "scary_contrast"):
            if not getattr(data, role):
                raise SaferlrmError(f"data.{role} names no data set; set data.scary and data.scary_contrast")
        published.require_files(data)
        suites = self._benchmarks()
        self.pools = {True: self._rows("train_harmful"), False: self._rows("train_benign")}
        self.n_compared = sum(map(len, self.pools.values()))
        self.left_out = {True: 0, False: 0}
        pairs = [self._drop(suites)]
        held = self._hold_out([name for name in ("harmful_seen", "harmful_rephrased") if name not in suites])
        pairs.append(self._drop(held))
        self.suites = {name: (suites | held)[name] for name in synthetic.SUITE_NAMES}
        self.pairs = pd.concat([part for part in pairs if len(part)] or pairs[:1], ignore_index=True)

    @functools.cached_property
    def digest(self) -> str:
        """Hash of every prompt, so that a copy of the data elsewhere finds the same stages."""
        found = hashlib.sha256()
        for prompts in (*self.suites.values(), *self.pools.values()):
            for p in prompts:
                found.update(json.dumps([p.id, p.text, p.harmful, p.family, p.depth, p.answer]).encode())
        return found.hexdigest()

    def training(self, harmful: bool, place: int, suite: str) -> Prompt:
        """The prompt of a pool at one place; every fourth stands in a wrapper of a seen family."""
        prompt = self.pools[harmful][place]
        if place % 4 == 1:
            prompt = self._wrapped(prompt, place // 4, "seen", self.pools[False])
        return _named([prompt], suite)[0]

    def _rows(self, role: str) -> list[Prompt]:
        """The prompts of the sets of a role, without repetition, in a seeded order that mixes the sets evenly."""
        sets = [self._set(name, role) for name in getattr(self.data, role)]
        mixed = [one[i] for i in range(max(map(len, sets))) for one in sets if i < len(one)]
        return _without(mixed, set())

    def _set(self, name: str, role: str) -> list[Prompt]:
        entry = published.get(name)
        wanted = None if role == "reasoning" else role in ("harmful", "scary_contrast", "train_harmful")
        if entry.harmful is not wanted:
            kinds = {True: "harmful requests", False: "harmless requests", None: "problems with gold answers"}
            raise SaferlrmError(f"data.{role} names {name}, which holds {kinds[entry.harmful]}, not {kinds[wanted]}")
        rows = published.load(entry, self.data.folder, self.data.files, self.data.allow_fewer)
        prompts = [
            Prompt(f"{name}-{r.id}", r.prompt, role, bool(wanted), None, r.category or name, r.level, r.answer)
            for r in rows.itertuples()
        ]
        random.Random(f"{name}-{self.seed}").shuffle(prompts)
        return prompts

    def _benchmarks(self) -> dict[str, list[Prompt]]:
        """Every suite that is not held out of the training sets."""
        base = {
            "harmful_unseen": self._rows("harmful"),
            "scary_contrast": self._rows("scary_contrast"),
            "benign": self._rows("benign"),
            "safe_but_scary": self._rows("scary"),
            synthetic.REASONING: self._rows("reasoning"),
        }
        taken: set[str] = set()
        base = {suite: _without(prompts, taken) for suite, prompts in base.items()}  # no prompt in two of them
        if len(self.data.harmful) > 1:
            last = f"{self.data.harmful[-1]}-"
            both = base["harmful_unseen"]
            base["harmful_rephrased"] = [p for p in both if p.id.startswith(last)]
            base["harmful_unseen"] = [p for p in both if not p.id.startswith(last)]
        found = dict(base)
        for name, requests in (("harmful", base["harmful_unseen"]), ("benign", base["benign"])):
            for suite, split in ((f"{name}_wrapped", "seen"), (f"{name}_novel_wrapped", "unseen")):
                found[suite] = [self._wrapped(p, i, split, base["benign"]) for i, p in enumerate(requests)]
        return {suite: _named(prompts, suite) for suite, prompts in found.items()}

    def _hold_out(self, names: Sequence[str]) -> dict[str, list[Prompt]]:
        """Takes suites from the head of the harmful training prompts."""
        held, pool = {}, self.pools[True]
        n = min(int(len(pool) * HELD_OUT_SHARE), HELD_OUT_MOST)
        for i, suite in enumerate(names):
            held[suite] = _named(pool[i * n : (i + 1) * n], suite)
        self.pools[True] = pool[n * len(names) :]
        return held

    def _drop(self, suites: Mapping[str, list[Prompt]]) -> pd.DataFrame:
        """Removes from the pools what has a twin in a suite, and says what."""
        training = [p for pool in self.pools.values() for p in pool]
        pairs = overlap.find_overlap(training, suites, self.data.near_duplicate)
        twins = set(pairs["training_id"])
        for harmful, pool in self.pools.items():
            self.pools[harmful] = [p for p in pool if p.id not in twins]
            self.left_out[harmful] += len(pool) - len(self.pools[harmful])
        return pairs

    def _wrapped(self, prompt: Prompt, place: int, split: world.Split, others: Sequence[Prompt]) -> Prompt:
        families = sorted(world.WRAPPERS[split])
        family = families[place % len(families)]
        rng = random.Random(f"{prompt.id}-{family}-{self.seed}")
        beside = [p.text for p in rng.sample(others, min(3, len(others))) if p.id != prompt.id]
        return replace(prompt, text=wrap(prompt.text, family, rng, beside), family=family)


def wrap(request: str, family: str, rng: random.Random, others: Sequence[str]) -> str:
    """A published request inside a jailbreak wrapper of the world's families.

    Args:
        family: a family of :data:`saferlrm.organism.world.WRAPPERS`; ``obfuscation`` hides the longest word.
        others: harmless requests to stand beside it, for the family that asks several things at once.
    """
    split: world.Split = "seen" if family in world.WRAPPERS["seen"] else "unseen"
    sentence = request if request.rstrip().endswith((".", "?", "!", '"')) else f"{request.rstrip()}."
    beside = [text if text.endswith((".", "?", "!")) else f"{text}." for text in others] or ["What is the time?"]
    longest = max(re.findall(r"\w+", request), key=len)
    return rng.choice(world.WRAPPERS[split][family]).format(
        q=sentence,
        n=rng.choice(world.NAMES),
        p=rng.choice(world.PLACES),
        b=beside[0],
        c=beside[-1],
        o=world.obfuscate(request, longest, rng),
    )


def _without(prompts: Sequence[Prompt], taken: set[str]) -> list[Prompt]:
    """The prompts whose words are not ``taken`` yet; takes theirs."""
    kept = []
    for prompt in prompts:
        words = overlap.normalise(prompt.text)
        if words not in taken:
            taken.add(words)
            kept.append(prompt)
    return kept


def _named(prompts: Sequence[Prompt], suite: str) -> list[Prompt]:
    return [replace(p, id=f"{suite}-{p.id}", suite=suite) for p in prompts]
