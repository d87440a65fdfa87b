"""The bibliography: every source that is cited is listed once, in good form, and every entry is cited."""

from __future__ import annotations

import re

import pytest

from saferlrm import bibliography
from saferlrm.bibliography import ARXIV, DOI, ENTRIES, cited_ids

SOURCES = list(bibliography.sources())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_an_entry_has_the_form_of_its_kind(entry: bibliography.Entry) -> None:
    arxiv, doi = ARXIV.fullmatch(entry.id), DOI.fullmatch(entry.id)
    assert arxiv or doi or entry.id.startswith(("https://www.jstor.org/stable/", "https://dl.acm.org/doi/10.5555/"))
    journals = (r"www\.jstor\.org/\S+", r"dl\.acm\.org/doi/10\.5555/[\d.]+")
    places = (r"arxiv\.org/abs/\d{4}\.\d{4,5}", r"doi\.org/10\.[^\s<>]+", *journals)
    form = f"https://({'|'.join(places)})"
    assert re.fullmatch(form, entry.link)
    assert 1900 < entry.year < 2100
    assert entry.title == entry.title.strip()
    assert entry.authors == entry.authors.strip() != ""
    if arxiv:
        assert entry.year == 2000 + int(entry.id[:2])
    else:
        assert entry.cited, "says how a text without the id cites it"


def test_nothing_is_listed_twice() -> None:
    assert len({entry.id for entry in ENTRIES}) == len(ENTRIES)
    assert len({entry.title.casefold() for entry in ENTRIES}) == len(ENTRIES)


def test_everything_that_is_cited_is_listed() -> None:
    assert bibliography.missing(SOURCES) == [], "add it to saferlrm/bibliography.py"


def test_everything_that_is_listed_is_cited() -> None:
    assert bibliography.unused(SOURCES) == []


def test_ids_are_found_and_numbers_are_not_taken_for_ids() -> None:
    assert cited_ids("arXiv 2603.17368, 2502.12025; https://arxiv.org/abs/1706.04599") == {
        "2603.17368", "2502.12025", "1706.04599",
    }  # fmt: skip
    assert cited_ids("see https://doi.org/10.1002/sim.3095.") == {"10.1002/sim.3095"}
    assert cited_ids("2613.17368 tokens, 12026.03174, 0.2603.17368, 9901.12345") == set()


def test_a_source_that_is_not_listed_is_found_with_its_place() -> None:
    assert bibliography.missing([("some.py", "arXiv 2501.00001")]) == ["2501.00001 (some.py)"]
    assert len(bibliography.unused([("some.py", "nothing")])) == len(ENTRIES)
