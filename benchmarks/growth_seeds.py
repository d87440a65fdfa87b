"""What organisms of several seeds show: the targets of the organism, one set of rows for each checkpoint folder.

    saferlrm grow --seed 1 --out grown/1
    python benchmarks/growth_seeds.py grown/1 grown/2

The checkpoint that ships is always among them. Writes ``results/growth_seeds.json``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd

from saferlrm.study import Study, shipped_organism
from saferlrm.targets import ORGANISM, targets


def main(folders: list[str]) -> None:
    tables = []
    for folder in [shipped_organism(), *map(Path, folders)]:
        record = json.loads((folder / "growth.json").read_text())
        found = targets(Study("organism", model=str(folder)).scorecard())
        found = found[found["about"] == ORGANISM]
        columns = ["metric", "suite", "mode", "target", "value", "low", "high", "n", "verdict"]
        tables.append(found[columns].assign(seed=record["seed"], tokens=record["tokens"], seconds=record["seconds"]))
    table = pd.concat(tables, ignore_index=True)
    Study("organism").save_table("growth_seeds", table)
    print(table.pivot_table(index=["metric", "suite", "mode", "target"], columns="seed", values="value", sort=False))


if __name__ == "__main__":
    main(sys.argv[1:])
