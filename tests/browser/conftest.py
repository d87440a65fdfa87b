"""The browser of these tests, or the reason why there is none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    import chromium

    reason = chromium.why_not()
    if reason:
        pytest.skip(reason)
    with chromium.started(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser
