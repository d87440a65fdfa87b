"""What becomes of the repository's links on the site, and the versions that build it. Needs no browser."""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path, PurePosixPath

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("requirements.lock.txt", "site/requirements.lock.txt")


def _load():
    spec = importlib.util.spec_from_file_location("stage", ROOT / "site" / "stage.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


stage = _load()
HERE = PurePosixPath("notebooks/01_one.ipynb")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    for folder in ("notebooks", "figures", "benchmarks", "docs"):
        (root / folder).mkdir(parents=True)
    for name in ("01_one", "02_two"):
        cells = [nbformat.v4.new_markdown_cell("# Title\n\n[on](02_two.ipynb#Is-it-calibrated?)")]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), root / "notebooks" / f"{name}.ipynb")
    (root / "figures" / "01_a.png").write_bytes(b"picture")
    (root / "LICENSE").write_text("MIT")
    (root / "README.md").write_text("# Project\n\n![What it shows](figures/01_a.png) [one](notebooks/01_one.ipynb)\n")
    (root / "docs" / "words.md").write_text("# Words\n\n[one](../notebooks/01_one.ipynb) [project](../README.md)\n")
    (root / "CONTRIBUTING.md").write_text("# How\n")
    return root


@pytest.fixture
def links(repository: Path, tmp_path: Path):
    return stage.Links(repository, tmp_path / "site")


@pytest.mark.parametrize(
    ("written", "staged"),
    [
        ("[a](02_two.ipynb)", "[a](../notebooks/02_two.ipynb)"),
        ("[a](02_two.ipynb#Is-it-calibrated?)", "[a](../notebooks/02_two.ipynb#is-it-calibrated)"),
        ("[a](#By-layer)", "[a](#by-layer)"),
        ("[a](../README.md#two-commands)", "[a](../index.md#two-commands)"),
        ("[a](../LICENSE)", "[a](../LICENSE)"),
        ("![a](../figures/01_a.png)", "![a](../figures/01_a.png)"),
        ("[`code`](02_two.ipynb)", "[`code`](../notebooks/02_two.ipynb)"),
        ("see [the scripts](../benchmarks).", "see the scripts."),
        ("[a](https://arxiv.org/abs/2603.17368)", "[a](https://arxiv.org/abs/2603.17368)"),
        ("```\n[a](nowhere.md)\n```", "```\n[a](nowhere.md)\n```"),
        ("[a](../docs/words.md)", "[a](../docs/words.md)"),
        ('<a href="02_two.ipynb#By-layer">a</a>', '<a href="../notebooks/02_two.html#by-layer">a</a>'),
    ],
)
def test_a_link_is_staged(links, written: str, staged: str) -> None:
    assert links.in_markdown(written, HERE) == staged


def test_a_linked_file_comes_along(links) -> None:
    links.in_markdown("[a](../LICENSE)", HERE)
    assert (links.target / "LICENSE").read_text() == "MIT"


@pytest.mark.parametrize("link", ["03_none.ipynb", "../NOTHING.md", "../../outside.txt"])
def test_a_broken_link_stops_the_build_and_is_named(links, link: str) -> None:
    with pytest.raises(stage.BrokenLinkError, match="leads nowhere"):
        links.in_markdown(f"[a]({link})", HERE)


def test_pages_are_the_readme_as_landing_page_and_all_notebooks(repository: Path, tmp_path: Path) -> None:
    pages = stage.stage(tmp_path / "site", repository)
    assert {page.relative_to(tmp_path / "site").as_posix() for page in pages} == {
        "index.md",
        "contributing.md",
        "docs/words.md",
        "notebooks/01_one.ipynb",
        "notebooks/02_two.ipynb",
    }
    index = (tmp_path / "site" / "index.md").read_text()
    assert "notebooks/01_one\nnotebooks/02_two\n" in index
    assert "docs/words\ncontributing\n" in index
    assert "[project](../index.md)" in (tmp_path / "site" / "docs" / "words.md").read_text()
    assert (tmp_path / "site" / "figures" / "01_a.png").is_file()


def test_a_dead_widget_leaves_its_sentence_behind(links) -> None:
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}, "text/plain": "A slider appears here."}
    cell = nbformat.v4.new_code_cell("x", outputs=[nbformat.v4.new_output("display_data", data=data)])
    stage._stage_cell(cell, HERE, links, "Heading")
    assert dict(cell.outputs[0].data) == {"text/plain": "A slider appears here."}


def test_a_picture_without_a_file_is_described_by_the_text_beside_it(links) -> None:
    for text, alt in (("What the slider shows.", "What the slider shows."), ("<Figure size 1x1>", "the section “By”")):
        output = nbformat.v4.new_output("display_data", data={"image/png": "", "text/plain": text})
        cell = nbformat.v4.new_code_cell("sliders.threshold_slider(table, 0.5)", outputs=[output])
        stage._stage_cell(cell, HERE, links, "By")
        assert alt in cell.metadata["mystnb"]["image"]["alt"]


def test_every_figure_of_the_course_says_what_it_shows() -> None:
    for path in (ROOT / "figures").glob("*.png"):
        assert len(stage.described(f'study.save_figure(figure, "{path.stem}")')) > 80, path.name


def test_what_builds_the_site_is_locked_with_all_that_it_needs() -> None:
    lines = [line for file in LOCKS for line in (ROOT / file).read_text().splitlines()]
    pins = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    for line in (ROOT / LOCKS[1]).read_text().splitlines():
        if line.startswith("#"):
            continue
        name = line.split("==")[0]
        assert metadata.version(name) == pins[canonicalize_name(name)]
        for text in metadata.requires(name) or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": ""}):
                assert pins.get(canonicalize_name(needed.name)) in needed.specifier, f"{name} needs {needed}"
