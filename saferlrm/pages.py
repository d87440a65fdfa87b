"""Pages that are written from the package and the results, never by hand, and compared by tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from saferlrm import bibliography, glossary, product
from saferlrm.course_map import write_maps
from saferlrm.store import repository

PAGES: dict[str, Callable[[Path | None], str]] = {
    bibliography.PAGE: bibliography.page,
    glossary.PAGE: glossary.page,
    product.PAGE: product.page,
}


def write_pages(root: Path | None = None) -> list[Path]:
    """Writes every page below ``root``, and the maps of the course in the README and in notebook 00.

    Raises:
        SaferlrmError: a result that a page needs is missing, or a file lacks its marks.
    """
    root = root or repository()
    written = write_maps(root)
    for name, make in PAGES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        temporary.write_text(make(root), encoding="utf-8")
        temporary.replace(path)
        written.append(path)
    return written
