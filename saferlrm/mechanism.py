"""Where alignment acts inside a model: where harm can be read, and where the latent moved.

All measurements use one set of training prompts, on which probes and directions are learned, and held-out prompts, on
which they are scored. *Refusal direction* is the difference of the mean states of harmful and of benign training
prompts (Arditi et al., arXiv 2406.11717) of the same form: where one class alone holds problems or more wrapped
requests, the difference of the means is also one of form, and tells harm hardly better than chance.

A probe says what can be read, not what is used; the shift says what training moved, not what it was for. What the
direction causes is tested in :mod:`saferlrm.causal`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import expit

from saferlrm.activations import extract
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel
from saferlrm.probes import Probe, fit_probe
from saferlrm.stats import auroc, auroc_difference, bootstrap_mean
from saferlrm.suites.types import Prompt

POSITIONS = ("prompt_last", "pre_cot")
# Groups of prompts to learn from: probes learn from both, directions from those whose classes are alike in form.
TRAIN, ALIKE = "train", "alike"
N_DIRECTIONS = 100


@dataclass(frozen=True)
class Reading:
    """What one model holds at :data:`POSITIONS` of labelled prompts.

    Attributes:
        prompts: in the order of ``states``.
        groups: one name for each prompt, :data:`TRAIN`, :data:`ALIKE` or that of a held-out contrast.
        states: [prompts, positions, layers from 0, hidden size].
    """

    prompts: tuple[Prompt, ...]
    groups: np.ndarray
    states: np.ndarray

    @property
    def harmful(self) -> np.ndarray:
        """Gold labels, shape [prompts]."""
        return np.array([prompt.harmful for prompt in self.prompts])

    @property
    def train(self) -> np.ndarray:
        """Which prompts are for learning, shape [prompts]."""
        return np.isin(self.groups, (TRAIN, ALIKE))

    @property
    def alike(self) -> np.ndarray:
        """Which prompts directions are learned from, shape [prompts]."""
        return self.groups == ALIKE

    def tests(self) -> dict[str, np.ndarray]:
        """Which prompts belong to each held-out group."""
        return {str(name): self.groups == name for name in dict.fromkeys(self.groups[~self.train])}

    def at(self, position: str, layer: int) -> np.ndarray:
        """States [prompts, hidden size] at one position and layer."""
        return np.asarray(self.states[:, POSITIONS.index(position), layer], np.float64)


def read(lm: LanguageModel, groups: Mapping[str, Sequence[Prompt]], batch_size: int = 64) -> Reading:
    """Reads the hidden states of all prompts, at every layer.

    Args:
        groups: prompts by name: :data:`ALIKE`, perhaps :data:`TRAIN`, and held-out ones; each with harmful and benign
            prompts.

    Raises:
        SaferlrmError: no prompts to learn from or none held out, or a held-out prompt that is also a training prompt.
    """
    held_out = [name for name in groups if name not in (TRAIN, ALIKE)]
    if ALIKE not in groups or not held_out:
        raise SaferlrmError(f"the mechanism needs prompts {ALIKE!r} and held-out ones; got {', '.join(groups)}")
    known = {prompt.text for name in (TRAIN, ALIKE) for prompt in groups.get(name, ())}
    for name in held_out:
        if any(prompt.text in known for prompt in groups[name]):
            raise SaferlrmError(f"the prompts {name!r} share some with the training prompts; give other ones")
    prompts = tuple(prompt for part in groups.values() for prompt in part)
    names = np.repeat(list(groups), [len(part) for part in groups.values()])
    return Reading(prompts, names, extract(lm, [p.text for p in prompts], POSITIONS, batch_size=batch_size))


@dataclass(frozen=True)
class Unaligned:
    """The unaligned model as the measure of all others: its reading, and what its training prompts teach.

    ``probes`` and ``differences`` (of the class means, [hidden size]) are by (position, layer).
    """

    reading: Reading
    probes: dict[tuple[str, int], Probe]
    differences: dict[tuple[str, int], np.ndarray]

    @classmethod
    def of(cls, reading: Reading, seed: int = 0) -> Unaligned:
        """Fits a logistic probe, its penalty chosen by cross-validation, at every position and layer."""
        train, y = reading.train, reading.harmful
        cells = [(position, layer) for position in POSITIONS for layer in range(reading.states.shape[2])]
        probes = {cell: fit_probe(reading.at(*cell)[train], y[train], seed=seed) for cell in cells}
        return cls(reading, probes, {cell: _difference(reading, *cell) for cell in cells})


def probe_by_layer(reading: Reading, unaligned: Unaligned) -> pd.DataFrame:
    """How well harm can be read from a model, at every position and layer, beside the unaligned model.

    Penalties are those of the unaligned model, so that a difference between models is no difference of settings.

    Returns:
        One row for each ``position``, ``layer``, held-out ``group`` and ``probe`` (``own``: fitted to this model;
        ``unaligned``: the unaligned model's, as it is): ``auroc``, ``low``, ``high``, ``n``, ``interval``; ``change``,
        ``change_low``, ``change_high`` from the unaligned model's own probe (DeLong, paired). Of the refusal direction:
        ``norm``, ``relative_norm`` (by the unaligned model's) and ``cosine`` with the unaligned model's; NaN where the
        states of all prompts are the same.
    """
    y, train, rows = reading.harmful, reading.train, []
    for (position, layer), old in unaligned.probes.items():
        states, before = reading.at(position, layer), unaligned.reading.at(position, layer)
        own = fit_probe(states[train], y[train], C=old.C)
        new, reference = _difference(reading, position, layer), unaligned.differences[position, layer]
        norm, base = float(np.linalg.norm(new)), float(np.linalg.norm(reference))
        direction = {
            "norm": norm,
            "relative_norm": norm / base if base > 0 else np.nan,
            "cosine": float(new @ reference) / (norm * base) if norm * base > 0 else np.nan,
        }
        for group, index in reading.tests().items():
            reference_scores = old.score(before[index])
            for name, probe in (("own", own), ("unaligned", old)):
                scores = probe.score(states[index])
                found = auroc(y[index], scores)
                change = auroc_difference(y[index], reference_scores, scores)
                rows.append(
                    {"position": position, "layer": layer, "group": group, "probe": name}
                    | {"auroc": found.estimate, "low": found.low, "high": found.high}
                    | {"n": found.n, "interval": found.method, "change": change.estimate}
                    | {"change_low": change.low, "change_high": change.high}
                    | direction
                )
    return pd.DataFrame(rows)


def latent_shift(after: Reading, unaligned: Unaligned, position: str = "pre_cot", seed: int = 0) -> pd.DataFrame:
    """How far each held-out prompt's state moved along a direction of the unaligned model, and how much beside it.

    Directions: ``refusal``; ``probe`` (the logistic one); ``random``: unit vectors of all directions alike;
    ``within``: unit vectors drawn as the states of one class scatter, which meet a shift more often where the states
    vary more. The last two are means over :data:`N_DIRECTIONS` vectors, turned from benign to harmful as the others.

    Returns:
        One row for each prompt, ``layer`` from 1 and ``direction``: ``prompt_id``, ``suite``, ``harmful``,
        ``projection`` (signed; 1 is the distance between the class means in the unaligned model, for ``probe`` their
        distance along it), ``share`` of the squared norm of the shift, and ``norm`` of the shift in
        the same unit as the projection. Where nothing moved the share is NaN.
    """
    before, rng = unaligned.reading, np.random.default_rng(seed)
    if before.prompts != after.prompts:
        raise SaferlrmError("a shift needs the same prompts before and after; read both models on the same groups")
    test, tables = ~before.train, []
    chosen = [prompt for prompt, held_out in zip(before.prompts, test, strict=True) if held_out]
    place = {name: [getattr(prompt, attribute) for prompt in chosen] for name, attribute in
             (("prompt_id", "id"), ("suite", "suite"), ("harmful", "harmful"))}  # fmt: skip
    for layer in range(1, before.states.shape[2]):
        old = before.at(position, layer)
        shift = (after.at(position, layer) - old)[test]
        norm, difference = np.linalg.norm(shift, axis=1), unaligned.differences[position, layer]
        for name, units, distance in _axes(before, old, difference, unaligned.probes[position, layer], rng):
            along = shift @ units.T
            with np.errstate(invalid="ignore"):
                share = (along**2 / norm[:, None] ** 2).mean(1)
            found = {"projection": along.mean(1) / distance, "share": share, "norm": norm / distance}
            tables.append(pd.DataFrame(place | {"layer": layer, "direction": name} | found))
    return pd.concat(tables, ignore_index=True)


def shift_table(rows: pd.DataFrame, by: Sequence[str] = ("condition", "harmful", "layer", "direction")) -> pd.DataFrame:
    """Means of :func:`latent_shift` over prompts and seeds, with bootstrap intervals over prompts.

    Returns:
        The grouping columns, ``projection``, ``share`` and ``norm``, each also with ``_low`` and ``_high``; ``n``
        prompts, ``seeds``, ``interval``, and ``seed_low`` and ``seed_high``, lowest and highest projection of a seed.
    """
    found = []
    for group, part in rows.groupby(list(by), sort=False):
        row = dict(zip(by, group, strict=True))
        for column in ("projection", "share", "norm"):
            wide = part.pivot_table(index="prompt_id", columns="seed", values=column).dropna()
            if wide.empty:  # nothing moved
                row |= {column: np.nan, f"{column}_low": np.nan, f"{column}_high": np.nan}
                continue
            mean = bootstrap_mean(wide.to_numpy())
            row |= {column: mean.estimate, f"{column}_low": mean.low, f"{column}_high": mean.high}
        seeds = part.groupby("seed")["projection"].mean()
        found.append(
            row
            | {"n": part["prompt_id"].nunique(), "seeds": len(seeds), "interval": "BCa bootstrap over prompts"}
            | {"seed_low": seeds.min(), "seed_high": seeds.max()}
        )
    return pd.DataFrame(found)


def latent_decision(reading: Reading, layer: int, C: float | None = None, seed: int = 0) -> dict[str, float]:
    """Probability of harm at the pre-CoT token by prompt id, for held-out prompts: a probe of the training prompts."""
    states, train = reading.at("pre_cot", layer), reading.train
    probe = fit_probe(states[train], reading.harmful[train], seed=seed, C=C)
    return {
        prompt.id: float(p)
        for prompt, p, learned in zip(reading.prompts, expit(probe.score(states)), train, strict=True)
        if not learned
    }


def _difference(reading: Reading, position: str, layer: int) -> np.ndarray:
    states, alike, y = reading.at(position, layer), reading.alike, reading.harmful
    return fit_probe(states[alike], y[alike], "difference_in_means").direction


def _axes(
    reading: Reading, states: np.ndarray, difference: np.ndarray, probe: Probe, rng: np.random.Generator
) -> Iterator[tuple[str, np.ndarray, float]]:
    """Name, unit vectors [vectors, hidden size] from benign to harmful, and the unit of length, of each direction."""
    y, alike = reading.harmful, reading.alike
    norm = float(np.linalg.norm(difference))
    if norm == 0:
        raise SaferlrmError("harmful and benign states have the same mean; there is no direction between them")
    yield "refusal", difference[None] / norm, norm
    weights = probe.direction / np.linalg.norm(probe.direction)
    weights = weights * (1.0 if weights @ difference >= 0 else -1.0)
    yield "probe", weights[None], float(weights @ difference)
    scatter = [states[alike & (y == label)] for label in (True, False)]
    scatter = np.concatenate([group - group.mean(0) for group in scatter])
    for name, vectors in (
        ("random", rng.normal(size=(N_DIRECTIONS, states.shape[1]))),
        ("within", rng.normal(size=(N_DIRECTIONS, len(scatter))) @ scatter),
    ):
        units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        yield name, units * np.where(units @ difference >= 0, 1.0, -1.0)[:, None], norm
