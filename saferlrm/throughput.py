"""Throughput measured by ``benchmarks/gpu.py``, and which of its rows stands for a model that is to be run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from saferlrm.architectures import Architecture, architecture, published
from saferlrm.errors import SaferlrmError
from saferlrm.store import repository


def measurements(path: Path | None = None) -> list[dict[str, Any]]:
    """Rows of the table of measured throughput; empty where nothing was measured.

    Raises:
        SaferlrmError: the table cannot be read.
    """
    path = path or repository() / "benchmarks" / "results" / "gpu_throughput.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
        return [
            row for row in rows if row["tokens_per_second"] > 0 and row["what"] and row["model"] and row["hardware"]
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise SaferlrmError(f"{path} cannot be read ({problem!r}); run benchmarks/gpu.py again or remove it") from None


def measured(
    rows: Sequence[dict[str, Any]], what: str, arch: Architecture, batch: int, tflops: float
) -> tuple[float, str] | None:
    """Tokens per second of one kind of work, and on what they were measured; ``None`` if they were not.

    Rows of this model count, and of a published one of the very same sizes, since weights are random there: so a folder
    under any name is found. Of several rows one of the same batch is taken, then one of a card with this peak
    (``tflops``), then the last. What differs from the wanted model, batch and card is said. Arithmetic binds alignment
    and extraction, so their rate is scaled by the peak; launches bind sampling, so its rate is scaled by a smaller
    batch. Training without gradient checkpointing seldom fits: such a row counts only where there is no other.
    """
    found = [row for row in rows if row["what"] == what and _same(row["model"], arch)]
    if not found:
        return None

    def nearness(place: int) -> tuple[bool, bool, bool, bool, int]:
        row = found[place]
        named = row["model"].lower() == arch.name.lower()
        return row.get("checkpointing", True), row.get("batch") == batch, row.get("peak_tflops") == tflops, named, place

    row = found[max(range(len(found)), key=nearness)]
    basis, rate, peak = f"measured on {row['hardware']}", row["tokens_per_second"], row.get("peak_tflops")
    if peak and peak != tflops and what != "sampling":
        rate *= tflops / peak
        basis += f" x {tflops:g}/{peak:g} TFLOP/s"
    if row.get("batch", batch) != batch:
        rate *= min(1.0, batch / row["batch"]) if what == "sampling" else 1.0
        basis += f", {row['batch']} at once and not {batch}"
    if row["model"].lower() != arch.name.lower():
        basis += f", with the sizes of {row['model'].rpartition('/')[2]}"
    return rate, basis


def _same(name: str, arch: Architecture) -> bool:
    if name.lower() == arch.name.lower():
        return True
    if name.lower() not in (known.lower() for known in published()):
        return False
    return _sizes(architecture(name)) == _sizes(arch)


def _sizes(arch: Architecture) -> Architecture:
    return replace(arch, name="", source="", context=0)
