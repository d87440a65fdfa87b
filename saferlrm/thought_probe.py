"""A thought read token by token: p(harmful) of one linear probe at every token that the model wrote.

The study asks at which *shares* of the thought a probe can read harm, with a new probe at each share. To colour a
thought one probe has to do for all its tokens, so that their scores can be compared: it is fitted on the states at
:data:`SHARES` of the thoughts of training prompts, all of them together. Layer and penalty are those with the least log
loss on topics that were held out; the AUROCs there are kept with the probe, and flatter it a little for that choice.
A single token is read with much noise: what counts is the colour of a stretch, not of a word.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from saferlrm.activations import Located, extract, hidden_states, locate
from saferlrm.chat import ThinkingMode
from saferlrm.errors import SaferlrmError
from saferlrm.lm import LanguageModel
from saferlrm.probes import PENALTIES, Probe, fit_probe
from saferlrm.stats import Interval, auroc
from saferlrm.suites.types import Prompt

SHARES = tuple(i / 12 for i in range(1, 13))  # of a thought; 1 is its last token
LAYERS = 8  # layers tried at most, spread over the depth of the model
HELD_OUT = 0.25  # share of the topics of either label


@dataclass(frozen=True)
class Token:
    """A piece of a thought.

    Attributes:
        text: what the token wrote; empty for all but the last token of a character that takes several.
        p: the probe's p(harmful) at this token, that is, after the model has read it.
    """

    text: str
    p: float


@dataclass(frozen=True)
class ThoughtProbe:
    """One probe for all tokens of a thought.

    Attributes:
        layer: the layer that it reads, as :mod:`saferlrm.activations` counts them.
        of_thoughts: AUROC of the mean score along a thought, on the topics that chose layer and penalty.
        of_tokens: AUROC of the score at a single token there; without an interval, since the tokens of one thought are
            no independent draws.
    """

    probe: Probe
    layer: int
    of_thoughts: Interval
    of_tokens: float

    def tokens(self, lm: LanguageModel, prompt: str, thought: str, mode: ThinkingMode = "on") -> tuple[Token, ...]:
        """The thought in pieces, one for each of its tokens; together they are the thought.

        Args:
            thought: as :class:`saferlrm.generate.Answer` has it, without tags; none is no pieces.

        Raises:
            SaferlrmError: prompt and thought are longer than the context.
        """
        if not thought:
            return ()
        ids = locate(lm, prompt, ["thought:0"], thought, mode).ids
        opened = "" if lm.chat.opens else f"{lm.chat.think_open}\n"
        whole = opened + thought
        offsets = lm.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        own = [i for i, (_, end) in enumerate(offsets) if end > len(opened)]
        index = [len(ids) - len(offsets) + i for i in own]
        states = hidden_states(lm, [Located(ids, index)], [self.layer])[0, :, 0]
        starts = np.maximum.accumulate([len(opened), *(offsets[i][0] for i in own[1:])])
        pieces = [whole[start:end] for start, end in pairwise([*starts.tolist(), len(whole)])]
        return tuple(Token(text, float(p)) for text, p in zip(pieces, _logistic(self.probe.score(states)), strict=True))


def fit_thought_probe(
    lm: LanguageModel, prompts: Sequence[Prompt], thoughts: Sequence[str], batch_size: int = 64, seed: int = 0
) -> ThoughtProbe:
    """Fits one probe on the states along the thoughts of some prompts; see the module.

    Raises:
        SaferlrmError: a label has fewer than two topics, so that none can be held out.
    """
    layers = sorted({round(at) for at in np.linspace(0, lm.n_layers, LAYERS)})
    positions = [f"thought:{share:.4f}" for share in SHARES]
    states = extract(lm, [p.text for p in prompts], positions, thoughts, layers=layers, batch_size=batch_size)
    harmful = np.array([prompt.harmful for prompt in prompts])
    held = _held_out(prompts, seed)
    y, y_held = (np.repeat(harmful[part], len(SHARES)) for part in (~held, held))
    best: tuple[float, Probe, int] | None = None
    for k, layer in enumerate(layers):
        X, X_held = (states[part, :, k].reshape(-1, lm.hidden_size) for part in (~held, held))
        for penalty in PENALTIES:
            probe = fit_probe(X, y, C=penalty)
            loss = float(np.logaddexp(0, np.where(y_held, -1, 1) * probe.score(X_held)).mean())
            if best is None or loss < best[0]:
                best = loss, probe, layer
    assert best is not None
    _, probe, layer = best
    scores = probe.score(states[held, :, layers.index(layer)].reshape(-1, lm.hidden_size))
    of_thoughts = auroc(harmful[held], scores.reshape(-1, len(SHARES)).mean(1))
    return ThoughtProbe(probe, layer, of_thoughts, auroc(y_held, scores).estimate)


def _held_out(prompts: Sequence[Prompt], seed: int) -> np.ndarray:
    """Which prompts are held out, shape [prompts]: all those of some topics of either label."""
    chosen: set[str] = set()
    for label in (True, False):
        topics = sorted({p.topic or p.id for p in prompts if bool(p.harmful) == label})
        if len(topics) < 2:
            raise SaferlrmError(f"a probe along the thought needs two topics of either label, not {len(topics)}")
        random.Random(f"{seed} {label}").shuffle(topics)
        chosen.update(topics[: max(1, round(HELD_OUT * len(topics)))])
    return np.array([(p.topic or p.id) in chosen for p in prompts])


def _logistic(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(scores, -50, 50)))
