"""Real benchmark rows for tests: beside the checkout, or where SAFERLRM_TEST_DATA says. Never copied into it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from saferlrm.store import repository

FOLDER = Path(os.environ.get("SAFERLRM_TEST_DATA") or repository().parent / "shared" / "data")
needs_rows = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no benchmark rows in {FOLDER}; set SAFERLRM_TEST_DATA")
