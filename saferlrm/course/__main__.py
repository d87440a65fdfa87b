"""``python -m saferlrm.course`` writes the exercises into the notebooks; with ``--check`` it only compares."""

from __future__ import annotations

import argparse
import sys

from saferlrm.course.sync import differing, sync
from saferlrm.refresh import notebooks


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m saferlrm.course", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, write nothing; 1 if a notebook differs")
    parser.add_argument("only", nargs="*", metavar="NN", help="numbers of notebooks, all by default")
    chosen = parser.parse_args(arguments)
    paths = notebooks(chosen.only)
    if chosen.check:
        found = [f"{path.name}: {what}" for path in paths if (what := differing(path))]
        print("\n".join(found) or "all notebooks hold the exercises as they are in saferlrm/course")
        return bool(found)
    written = [path.name for path in paths if sync(path)]
    print("\n".join(f"wrote {name}" for name in written) or "nothing to write")
    return 0


if __name__ == "__main__":
    sys.exit(main())
