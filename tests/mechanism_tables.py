"""Tables of the mechanism made by hand, shaped like the study's: what its figures are tested on."""

from __future__ import annotations

import numpy as np
import pandas as pd

from saferlrm.mechanism import POSITIONS
from saferlrm.study.mechanism import CONDITIONS


def known(n: int = 40, seeds: int = 2) -> pd.DataFrame:
    """Rows of knowing, saying and refusing, for two models."""
    rng = np.random.default_rng(2)
    tables = []
    for condition, refusing in (("before", 0.1), ("presafe", 0.9)):
        for seed in range(1 if condition == "before" else seeds):
            for harmful in (True, False):
                table = pd.DataFrame({"prompt_id": [f"{harmful}{i}" for i in range(n)]})
                table["knows"] = rng.random(n) < (0.9 if harmful else 0.1)
                table["says"] = rng.random(n) < (0.6 if harmful else 0.0)
                table["refused"] = rng.random(n) < (refusing if harmful else 0.05)
                tables.append(table.assign(condition=condition, seed=seed, harmful=harmful))
    return pd.concat(tables, ignore_index=True)


def shifts() -> pd.DataFrame:
    """A made-up table of shifts: PreSafe moves harmful prompts along the direction."""
    rows = []
    for i, condition in enumerate(name for name in CONDITIONS if name != "before"):
        for harmful in (True, False):
            for layer in range(1, 5):
                for direction, part in (("refusal", 1.0), ("random", 0.02), ("within", 0.1)):
                    value = part * 0.1 * layer * (2 if condition == "presafe" else 1) * (1 if harmful else -0.3)
                    row = {"condition": condition, "harmful": harmful, "layer": layer, "direction": direction}
                    for name, mean in (("projection", value), ("share", part * 0.05 * (i + 1)), ("norm", 2.0)):
                        row |= {name: mean, f"{name}_low": mean - 0.02, f"{name}_high": mean + 0.02}
                    rows.append(row | {"n": 150, "seeds": 3, "seed_low": value, "seed_high": value})
    return pd.DataFrame(rows)


def probe_rows() -> pd.DataFrame:
    rows = []
    for i, condition in enumerate(CONDITIONS):
        for seed in range(1 if condition == "before" else 3):
            for position in POSITIONS:
                for layer in range(5):
                    for group in ("direct", "novel_wrapped"):
                        value = 0.55 + 0.08 * layer + 0.01 * i
                        rows.append(
                            {"condition": condition, "seed": seed, "position": position, "layer": layer, "group": group}
                            | {"probe": "own", "auroc": value, "low": value - 0.05, "high": value + 0.05, "n": 300}
                            | {"relative_norm": 1 + i / 10 if layer else np.nan}
                            | {"cosine": 1 - i / 9 if layer else np.nan}
                        )
    return pd.DataFrame(rows)


def causal_rows(works: bool = True) -> pd.DataFrame:
    """Made-up rows: the decision's direction works at layer 4 with thinking off, if it is to work at all."""
    rows = []
    for base in ("before", "sft", "presafe"):
        for read, mode in (("probe", "on"), ("on", "on"), ("off", "on"), ("off", "off")):
            if (mode == "off" and base != "before") or (read == "probe" and base == "sft"):
                continue
            kinds = [("none", "none", "none", 0, 0.0)]
            for name in ("probe" if read == "probe" else "refusal", "random"):
                kinds += [("add", name, "pre_cot", layer, scale) for layer in (1, 2, 4) for scale in (1.0, 2.0)]
                kinds += [("remove", name, where, at, np.nan) for where in ("pre_cot", "all") for at in (0, 1, 2, 4)]
            for kind, name, where, layer, scale in kinds:
                acts = works and mode == "off" and name == "refusal" and layer in (0, 4)
                for i in range(20):
                    harmful = i % 2 == 0
                    refused = (kind == "add" and acts) or (harmful and mode == "off" and not acts)
                    rows.append(
                        {"prompt_id": f"p{i}", "seed": 0, "base": base, "harmful": harmful, "refused": refused}
                        | {"attack_success": (not refused) if harmful else None, "intervention": kind, "mode": mode}
                        | {"direction": name, "where": where, "layer": layer, "scale": scale, "read": read}
                    )
    rows = pd.DataFrame(rows).astype({"attack_success": "boolean"})
    return rows[(rows["intervention"] != "remove") | rows["harmful"]]


def path_rows(peak: float = 0.5) -> pd.DataFrame:
    rows = []
    for condition in ("presafe", "presafe/few"):
        for seed in range(2):
            for epoch in np.linspace(0, 3, 7):
                for group, sign in (("harmful", 1), ("benign", -1), ("all", 0)):
                    aux = float(np.exp(-((epoch - peak) ** 2))) if epoch else 0.0
                    row = {
                        "condition": condition,
                        "seed": seed,
                        "epoch": epoch,
                        "group": group,
                        "n": 32 if not sign else 16,
                    }
                    rows.append(row | {"of": "lora", "layer": 0, "norm_lm": 1.5, "norm_aux": aux, "cosine": 0.1})
                    push = sign * 0.4 if epoch else np.nan
                    latent = {
                        "of": "latent",
                        "layer": 4,
                        "norm_lm": 0.1,
                        "norm_aux": aux,
                        "cosine": 0.0,
                        "toward_aux": push,
                    }
                    rows.append(row | latent | {"toward_aux_low": push - 0.1, "toward_aux_high": push + 0.1})
    return pd.DataFrame(rows)
