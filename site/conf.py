"""Sphinx configuration of the web site: stored outputs, no execution, nothing fetched when it is built or read."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import yaml

HERE = Path(__file__).parent
_citation = yaml.safe_load((HERE.parent / "CITATION.cff").read_text(encoding="utf-8"))

project = "saferlrm"
author = "the saferlrm authors"
release = version = str(_citation["version"])
project_copyright = ""
language = "en"

extensions = ["myst_nb", "sphinx.ext.mathjax"]
root_doc = "index"
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}

nb_execution_mode = "off"
nb_ipywidgets_js = {}  # else every page asks a CDN for the widgets' scripts
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables, formulas and links in outputs
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
myst_all_links_external = False
nitpicky = True

html_theme = "sphinx_book_theme"
html_title = "saferlrm"
html_static_path = [str(HERE / "static")]
html_favicon = "static/favicon.svg"
html_css_files = ["site.css"]
html_context = {"default_mode": "auto"}  # else the theme complains in the console of a first visit
html_show_copyright = False
html_show_sphinx = False
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": True,
    "use_fullscreen_button": False,
    "use_repository_button": False,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}

# MathJax 3 in one file without fonts, so that formulas appear from file:// and without a network too.
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {
    "options": {"enableMenu": False},  # its entries would load further parts
    "svg": {"fontCache": "local"},
}


def copy_mathjax(app, exception) -> None:
    """Puts the one file of the PyPI package sphinx-mathjax-offline that the pages load beside them."""
    if exception is None:
        package = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
        target = Path(app.outdir) / "_static" / mathjax_path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(package / "static" / mathjax_path, target)


def setup(app) -> None:
    app.connect("build-finished", copy_mathjax)
