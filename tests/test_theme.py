"""Figures bring their own light ground, to the very corner, so that a dark page leaves them readable."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pytest
import tables
from IPython.core.pylabtools import print_figure
from matplotlib.colors import to_rgba
from PIL import Image

from saferlrm import plots
from saferlrm.study import Study

ROOT = Path(__file__).resolve().parents[1]
FIGURES = sorted((ROOT / "figures").glob("*.png"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def check_ground(picture: Image.Image) -> None:
    """Corners are light and opaque, and the outermost pixels all round are empty: ground, not drawing."""
    pixels = picture.convert("RGBA")
    width, height = pixels.size
    corners = [pixels.getpixel((x, y)) for x in (0, width - 1) for y in (0, height - 1)]
    assert len(set(corners)) == 1
    assert corners[0][3] == 255, "transparent: black text would stand on a dark page"
    assert min(corners[0][:3]) >= 240
    for box in ((0, 0, width, 3), (0, height - 3, width, height), (0, 0, 3, height), (width - 3, 0, width, height)):
        assert pixels.crop(box).getcolors() == [(abs((box[2] - box[0]) * (box[3] - box[1])), corners[0])]


@pytest.fixture
def figure():
    yield plots.probe_by_layer(tables.probes())
    plt.close("all")


def test_the_theme_paints_figure_and_panels(figure) -> None:
    for name in ("figure.facecolor", "axes.facecolor", "savefig.facecolor"):
        assert to_rgba(plt.rcParams[name]) == (1, 1, 1, 1), name
    assert not plt.rcParams["savefig.transparent"]
    assert all(to_rgba(ax.get_facecolor())[3] == 1 for ax in figure.axes)
    assert to_rgba(figure.get_facecolor()) == (1, 1, 1, 1)


def test_a_figure_keeps_its_ground_as_a_file_and_in_a_notebook(figure, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SAFERLRM_OUT", str(tmp_path))
    Study("smoke").save_figure(figure, "one")
    check_ground(Image.open(tmp_path / "figures" / "one.png"))
    assert "fill: #ffffff" in (tmp_path / "figures" / "one.svg").read_text()
    check_ground(Image.open(io.BytesIO(print_figure(figure))))


def test_a_transparent_figure_would_be_noticed(figure) -> None:
    file = io.BytesIO()
    figure.savefig(file, transparent=True)
    with pytest.raises(AssertionError, match="transparent"):
        check_ground(Image.open(file))


@pytest.mark.parametrize("path", FIGURES, ids=lambda path: path.stem)
def test_a_stored_figure_has_its_ground(path: Path) -> None:
    check_ground(Image.open(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem[:2])
def test_pictures_in_notebooks_have_their_ground(path: Path) -> None:
    for cell in nbformat.read(path, as_version=nbformat.NO_CONVERT).cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                check_ground(Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))))
