"""Whether the study comes to the same results on other hardware: every answer anew, compared with the committed ones.

The whole walk runs from an empty store (what the model decides, the classifier, the alignment set, the adapters of
every seed, all suites in all thinking modes). Training and sampling on another device are not equal bit by bit, so the
results are compared as two measurements: for each model, suite and thinking mode the difference in rate over the same
prompts and seeds, with a 95 % interval, corrected by Holm's method over all of them. Attack success is compared on
harmful suites, refusals on harmless ones, accuracy on problems. Rows go to ``results/agreement.json``.

    python benchmarks/agreement.py --device cuda --batch-size 2048 --store /tmp/empty_folder
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path

import pandas as pd
import torch
import transformers

from saferlrm.crossed import contrasts, holm
from saferlrm.errors import SaferlrmError
from saferlrm.profile import load_profile
from saferlrm.store import Store, write_json
from saferlrm.study import Study
from saferlrm.suites.synthetic import BENIGN_SUITES, HARMFUL_SUITES, REASONING

COMMITTED = Path(__file__).parents[1] / "results" / "tidy" / "evaluation.parquet"
METRICS = {"attack_success": HARMFUL_SUITES, "refused": BENIGN_SUITES, "correct": (REASONING,)}
BY = ("method", "mode", "suite")


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--store", type=Path, required=True, help="folder for what is computed; empty, or of this run")
    parser.add_argument("--profile", default="organism")
    parser.add_argument("--batch-size", type=int, help="answers at a time; a GPU is faster with 2048")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "agreement.json")
    return parser.parse_args(words)


def compared(committed: pd.DataFrame, here: pd.DataFrame) -> pd.DataFrame:
    """Differences in rate, ``here`` minus ``committed``, by method, mode and suite, on the prompts that both have.

    Returns:
        The columns of :func:`saferlrm.crossed.contrasts`, with both rates as ``rate_committed`` and ``rate_here``.
    """
    both = pd.concat(
        [committed.assign(condition="committed"), here.assign(condition="here")], ignore_index=True
    )
    found = []
    for metric, suites in METRICS.items():
        rows = both[both["suite"].isin(suites) & both[metric].notna()]
        table = contrasts(rows, metric, [("committed", "here")], BY)
        means = rows.groupby([*BY, "condition"])[metric].mean().astype(float).unstack().add_prefix("rate_")
        found.append(table.merge(means.reset_index(), on=list(BY)))
    table = pd.concat(found, ignore_index=True)
    # One family: every comparison of this run.
    return table.assign(p_holm=holm(table["p"])).drop(columns=["sentence", "before", "after"])


def summary(table: pd.DataFrame) -> dict[str, float | int]:
    """How many intervals contain 0, how many differences stay after the correction, and the largest difference."""
    inside = (table["low"] <= 0) & (table["high"] >= 0)
    return {
        "comparisons": len(table),
        "intervals_with_zero": int(inside.sum()),
        "left_after_holm": int((table["p_holm"] < 0.05).sum()),
        "largest_difference": float(table["difference"].abs().max()),
        "mean_absolute_difference": float(table["difference"].abs().mean()),
    }


def main(words: list[str] | None = None) -> None:
    arguments = read_arguments(words)
    if not COMMITTED.is_file():
        raise SaferlrmError("results/tidy/evaluation.parquet is missing; run notebook 06 first")
    settings: dict[str, str | int] = {"device": arguments.device}
    if arguments.batch_size:
        settings["decoding.batch_size"] = arguments.batch_size
    profile = load_profile(arguments.profile, **settings)
    study = Study(profile, Store(arguments.store, shipped=None))
    seconds: dict[str, float] = {}
    stages = {
        "decisions": study.decisions,
        "classifier": study.classifier,
        "alignment set": study.alignment_set,
        "adapters": lambda: [study.aligned(method, seed) for method in ("sft", "presafe") for seed in profile.seeds],
        "scorecards": study.evaluation,
    }
    for name, stage in stages.items():
        clock = time.perf_counter()
        made = stage()
        seconds[name] = round(time.perf_counter() - clock, 1)
        print(f"{name}: {seconds[name]} s", flush=True)
    table = compared(pd.read_parquet(COMMITTED), made)
    cuda = torch.cuda.is_available() and arguments.device != "cpu"
    found = {
        "summary": summary(table),
        "hardware": torch.cuda.get_device_name() if cuda else f"{platform.machine()} CPU",
        "seconds": seconds,
        "command": "python benchmarks/agreement.py " + " ".join(words if words is not None else sys.argv[1:]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rows": table.to_dict("records"),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, found)
    print(json.dumps({name: value for name, value in found.items() if name != "rows"}, indent=1))


if __name__ == "__main__":
    try:
        main()
    except SaferlrmError as problem:
        sys.exit(f"error: {' '.join(str(problem).split())}")
