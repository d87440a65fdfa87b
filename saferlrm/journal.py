"""What has been received, kept line by line: an append-only JSONL file that survives a killed process.

Each line is one JSON object with its key. A line that was cut off by a kill is skipped, and the next one starts
afresh. Several threads and processes may write to one file.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from filelock import FileLock

from saferlrm.store import explain_write_errors


class Journal:
    """Records by key, read once when opened; ``None`` keeps nothing."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._records: dict[str, Any] = {}

    def __enter__(self) -> Journal:
        if self.path is not None and self.path.is_file():
            with self.path.open("rb") as lines:
                for line in lines:
                    try:
                        entry = json.loads(line)
                        self._records[entry["key"]] = entry["record"]
                    except (ValueError, KeyError, TypeError):
                        continue  # cut off by a kill
        return self

    def __exit__(self, *_: object) -> None:
        self._records = {}

    def __len__(self) -> int:
        return len(self._records)

    def get(self, key: str) -> Any | None:
        """The record of a key, or ``None``."""
        return self._records.get(key)

    def put(self, key: str, record: Any) -> None:
        """Append a record; it is on its way to the disk when this returns.

        Raises:
            SaferlrmError: the folder cannot be written or the disk is full.
        """
        if self.path is None:
            return
        line = json.dumps({"key": key, "record": record}, ensure_ascii=False, separators=(",", ":")) + "\n"
        with (
            self._lock,
            explain_write_errors(self.path.parent),
            FileLock(f"{self.path}.lock"),
            self.path.open("ab+") as file,
        ):
            if file.tell() and not _ends_line(file):
                line = "\n" + line
            file.write(line.encode("utf-8", "surrogatepass"))
        self._records[key] = record


def _ends_line(file: Any) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
