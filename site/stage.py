"""Lays out the sources of the web site: the notebooks with their stored outputs, and the README as landing page.

    python site/stage.py build/site-source

Nothing is executed or fetched. Links between notebooks are written for JupyterLab (``03_x.ipynb#By-layer``); here they
get the anchors that Sphinx gives to headings. Figures get the alternative text that the study wrote into their files.
"""

from __future__ import annotations

import html
import re
import shutil
import sys
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import nbformat
from myst_parser.slugs import github_slugify
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
MARKDOWN_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
ATTRIBUTE_LINK = re.compile(r"""((?:xlink:)?href|src)=(["'])([^"']+)\2""")
EXTERNAL = re.compile(r"^(?:[a-z][a-z+.-]*:|//)", re.IGNORECASE)
NAVIGATION = """
```{toctree}
:hidden:
:caption: The course

%s
```

```{toctree}
:hidden:
:caption: About

%s
```
"""


class BrokenLinkError(Exception):
    """A link of a source leads nowhere."""


def stage(target: Path, root: Path = ROOT) -> list[Path]:
    """Replaces a folder by all sources of the site and returns the pages.

    Raises:
        BrokenLinkError: a relative link leads to no file of the repository.
    """
    shutil.rmtree(target, ignore_errors=True)
    (target / "notebooks").mkdir(parents=True)
    links = Links(root, target)
    written = []
    notebooks = sorted((root / "notebooks").glob("*.ipynb"))
    for path in notebooks:
        notebook = nbformat.read(path, as_version=4)
        name = PurePosixPath("notebooks", path.name)
        heading = ""
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                heading = (re.findall(r"^#+ (.+)$", cell.source, flags=re.MULTILINE) or [heading])[-1]
            _stage_cell(cell, name, links, heading)
        written.append(target / name)
        nbformat.write(notebook, written[-1])
    texts = [path.relative_to(root).as_posix() for path in sorted((root / "docs").glob("*.md"))]
    pages = PAGES | {name: name for name in texts}
    for source, page in pages.items():
        text = links.in_markdown((root / source).read_text(encoding="utf-8"), PurePosixPath(source))
        if page == "index.md":
            about = [*texts, "contributing.md"]
            text += NAVIGATION % (
                "\n".join(f"notebooks/{path.stem}" for path in notebooks),
                "\n".join(name.removesuffix(".md") for name in about),
            )
        written.append(target / page)
        written[-1].parent.mkdir(exist_ok=True)
        written[-1].write_text(text, encoding="utf-8")
    return written


class Links:
    """Relative links of the repository as links of the site; files that they lead to are copied along."""

    def __init__(self, root: Path, target: Path) -> None:
        self.root, self.target = root, target

    def in_markdown(self, text: str, source: PurePosixPath) -> str:
        """A Markdown text with its links and the ``href`` of its HTML replaced; fenced code stays as it is."""
        parts = re.split(r"(^```.*?^```|`[^`\n]+`)", text, flags=re.MULTILINE | re.DOTALL)
        for i in range(0, len(parts), 2):
            part = MARKDOWN_LINK.sub(lambda found: self._markdown(found, source), parts[i])
            parts[i] = self.in_html(part, source)
        # A link's text may hold code, which splitting tore apart: such links are looked at once more as a whole.
        return re.sub(r"\[`[^`\n]+`\]\(([^()\s]+)\)", lambda found: self._coded(found, source), "".join(parts))

    def in_html(self, text: str, source: PurePosixPath) -> str:
        """HTML or SVG with links to pages as the built site has them (``.html``)."""

        def replaced(found: re.Match[str]) -> str:
            name, quote, link = found.groups()
            new = self.resolve(html.unescape(link), source)
            if new is None or EXTERNAL.match(link) or link.startswith("#"):
                return found[0] if new is not None else f"data-left-out={quote}{link}{quote}"
            page, hash_, anchor = new.partition("#")
            return f"{name}={quote}{re.sub(r'[.](?:ipynb|md)$', '.html', page)}{hash_}{anchor}{quote}"

        return ATTRIBUTE_LINK.sub(replaced, text)

    def resolve(self, link: str, source: PurePosixPath) -> str | None:
        """A link as the site's sources need it; ``None`` for a folder, of which the site has no page.

        Raises:
            BrokenLinkError: there is no such file.
        """
        path, hash_, anchor = link.partition("#")
        if EXTERNAL.match(link):
            return link
        if not path:
            return f"#{github_slugify(unquote(anchor))}"
        here = self.root / source.parent
        file = (here / unquote(path)).resolve()
        if path.endswith(".html") and not file.exists():  # written for the site already
            file = file.with_suffix(".ipynb")
        if not file.exists() or self.root not in (file, *file.parents):
            raise BrokenLinkError(f"{source}: the link {link} leads nowhere")
        if file.is_dir():
            return None
        inside = file.relative_to(self.root).as_posix()
        if inside in PAGES or re.fullmatch(r"notebooks/[^/]+[.]ipynb|docs/[^/]+[.]md", inside):
            inside = PAGES.get(inside, inside)
            anchor = github_slugify(unquote(anchor))
        else:
            copy = self.target / inside
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
        return "../" * len(source.parent.parts) + inside + hash_ + anchor

    def _markdown(self, found: re.Match[str], source: PurePosixPath) -> str:
        image, text, link = found.groups()
        new = self.resolve(link, source)
        return text if new is None else f"{image}[{text}]({new})"

    def _coded(self, found: re.Match[str], source: PurePosixPath) -> str:
        new = self.resolve(found[1], source)
        text = found[0][: found[0].rindex("](")]
        return text[1:] if new is None else f"{text}]({new})"


def _stage_cell(cell: nbformat.NotebookNode, source: PurePosixPath, links: Links, heading: str) -> None:
    if cell.cell_type == "markdown":
        cell.source = links.in_markdown(cell.source, source)
        return
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        # Without a kernel a widget is dead; what the cell shows in its place is the text beside it.
        data.pop("application/vnd.jupyter.widget-view+json", None)
        for kind in ("text/html", "image/svg+xml"):
            if kind in data:
                data[kind] = links.in_html(data[kind], source)
        if "text/markdown" in data:
            data["text/markdown"] = links.in_markdown(data["text/markdown"], source)
        if "image/png" in data:
            words = described(cell.source, links.root) or _said(data.get("text/plain", ""))
            cell.metadata.setdefault("mystnb", {})["image"] = {"alt": words or f"Figure of the section “{heading}”"}


def described(code: str, root: Path = ROOT) -> str:
    """What the files of the figures that a cell saves say about themselves."""
    names = re.findall(r'save_figure\([^"]*"(\w+)"', code)
    files = [file for name in names if (file := root / "figures" / f"{name}.png").is_file()]
    words = (Image.open(file).info.get("Description", "") for file in files)
    return " ".join(" ".join(words).split())


def _said(text: str) -> str:
    """What a picture's plain text says of it; the name of its class, which is the usual text, says nothing."""
    return "" if text.startswith("<") else " ".join(text.split())


if __name__ == "__main__":
    try:
        print(f"{len(stage(Path(sys.argv[1])))} pages")
    except BrokenLinkError as problem:
        sys.exit(f"error: {problem}")
