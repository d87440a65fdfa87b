"""The concept graph, the maps, the glossary and the pages: their places exist, and they say what the notebooks say."""

from __future__ import annotations

import re
import shutil
from dataclasses import astuple
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import matplotlib.pyplot as plt
import nbformat
import pytest
from pictures import words

from saferlrm import concept_graph, course_map, glossary, plots, product
from saferlrm.course.registry import EXERCISES, exercises_of
from saferlrm.course_map import EDGES, GROUPS, IDEAS, Place
from saferlrm.errors import SaferlrmError
from saferlrm.pages import PAGES, write_pages

ROOT = Path(__file__).resolve().parents[1]


def prose(stem: str) -> str:
    cells = nbformat.read(ROOT / "notebooks" / f"{stem}.ipynb", as_version=nbformat.NO_CONVERT).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


class Links(HTMLParser):
    """Opened and closed tags in balance, and where links lead."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.hrefs: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.open.append(tag)
        if tag == "a":
            self.hrefs.append(str(dict(attrs)["href"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


class TestIdeas:
    @pytest.mark.parametrize("key", IDEAS)
    def test_the_place_of_an_idea_exists(self, key: str) -> None:
        place = IDEAS[key].measured
        assert place.heading in course_map.headings(place.notebook)

    @pytest.mark.parametrize("key", IDEAS)
    def test_an_idea_is_told_in_one_sentence_and_belongs_to_a_group(self, key: str) -> None:
        idea = IDEAS[key]
        assert 40 <= len(idea.says) <= 160
        assert re.fullmatch(r"[A-Z][^.]+\.", idea.says)
        assert idea.group in GROUPS

    def test_all_ideas_hang_together_and_the_first_leads_to_the_last(self) -> None:
        assert len(IDEAS) >= 13
        seen, todo = set(), ["model"]
        while todo:
            key = todo.pop()
            seen.add(key)
            todo += [edge.target for edge in EDGES if edge.source == key and edge.target not in seen]
        assert set(IDEAS) - seen == {"attack"}, "an attack comes from outside"
        assert {edge.source for edge in EDGES if edge.source not in seen} == {"attack"}

    def test_an_edge_has_a_verb_and_is_drawn_once(self) -> None:
        assert all(edge.verb and edge.source != edge.target for edge in EDGES)
        assert len({(edge.source, edge.target) for edge in EDGES}) == len(EDGES)

    def test_a_missing_notebook_is_said_in_one_line(self) -> None:
        with pytest.raises(SaferlrmError, match="does not exist"):
            course_map.headings("99_nothing")


class TestDrawing:
    def test_no_line_crosses_a_node_that_is_not_its_own(self) -> None:
        half = [side / 2 for side in concept_graph.NODE]
        for one in concept_graph.lines():
            for (x0, y0), (x1, y1) in pairwise(one.points):
                for step in range(101):
                    x, y = x0 + (x1 - x0) * step / 100, y0 + (y1 - y0) * step / 100
                    for key, idea in IDEAS.items():
                        cx, cy = concept_graph.centre(idea.at)
                        inside = abs(x - cx) < half[0] and abs(y - cy) < half[1]
                        assert not inside, f"{one.edge.source} {one.edge.verb} {one.edge.target} runs through {key}"

    def test_the_page_needs_no_script_and_loads_nothing(self) -> None:
        text = concept_graph.graph_html()
        links = Links()
        links.feed(text)
        assert links.open == []
        assert not {"script", "img", "iframe", "object"} & links.tags
        assert not re.search(r"\bon\w+=|url\((?!#)|https?:", text)

    def test_the_graph_fits_the_text_of_the_site_and_stays_readable(self) -> None:
        width = float(re.search(r"[.]concepts svg{min-width:(\d+)px", concept_graph.graph_html())[1])
        assert width <= 772, "the width of the site's text on a screen of 1400 pixels"
        sizes = [int(size) for size in re.findall(r"(\d+)px(?:/[\d.]+)? system-ui", concept_graph.graph_html())]
        assert min(sizes) * width / concept_graph.SIZE[0] >= 8

    def test_every_node_opens_the_notebook_and_the_heading_where_it_is_measured(self) -> None:
        links = Links()
        links.feed(concept_graph.graph_html())
        assert len(links.hrefs) == len(IDEAS)
        for href, idea in zip(links.hrefs, IDEAS.values(), strict=True):
            file, _, anchor = href.partition("#")
            assert (ROOT / "notebooks" / file).is_file()
            assert unquote(anchor).replace("-", " ") == idea.measured.heading.replace("-", " ")

    def test_the_site_gets_its_own_addresses(self) -> None:
        place = Place("09_rivals_and_robustness", "Temperature, top-p, top-k")
        assert place.site_link() == "09_rivals_and_robustness.html#temperature-top-p-top-k"
        moved = course_map.for_site(concept_graph.graph_html())
        assert ".ipynb" not in moved
        assert moved == concept_graph.graph_html(Place.site_link)

    def test_the_figure_names_every_idea_and_is_readable_at_half_size(self) -> None:
        figure = plots.concepts()
        figure.canvas.draw()
        drawn = [t for t in figure.findobj(plt.Text) if t.get_text().strip() and t.get_visible()]
        plain = " ".join(" ".join(t.get_text().replace("\u00a0", " ").split()) for t in drawn)
        assert all(idea.name in plain for idea in IDEAS.values())
        assert min(t.get_fontsize() for t in drawn) >= 10
        assert f"{len(IDEAS)} ideas, {len(EDGES)} links" in words(figure)
        assert all(idea.name in plots.alt_text(figure) for idea in IDEAS.values())
        page = figure.bbox
        for text in drawn:
            box = text.get_window_extent()
            assert box.x0 >= page.x0 - 1, text.get_text()
            assert box.x1 <= page.x1 + 1, text.get_text()
        plt.close(figure)

    def test_every_name_fits_its_box_in_the_figure(self) -> None:
        figure = plots.concepts()
        figure.canvas.draw()
        ax = figure.axes[0]
        (x0, y0), (x1, y1) = ax.transData.transform([(0, 0), concept_graph.NODE])
        for text in ax.texts:
            if text.get_fontweight() == "bold":
                box = text.get_window_extent()
                assert box.width <= abs(x1 - x0) - 4, text.get_text()
                assert box.height <= abs(y1 - y0) - 2, text.get_text()
        plt.close(figure)

    def test_no_verb_covers_a_name(self) -> None:
        figure = plots.concepts()
        figure.canvas.draw()
        names = [t for t in figure.axes[0].texts if t.get_fontweight() == "bold"]
        for verb in (t for t in figure.axes[0].texts if t.get_fontweight() != "bold"):
            for name in names:
                assert not verb.get_window_extent().overlaps(name.get_window_extent()), verb.get_text()
        plt.close(figure)


class TestMaps:
    def test_the_map_has_every_notebook_with_costs(self) -> None:
        rows = list(course_map.map_rows())
        assert [row.stem for row in rows] == sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb"))
        for row in rows:
            assert all(astuple(row))
            assert re.match(r"\d", row.time)
            assert row.memory.endswith("GB")
            found = exercises_of(row.stem[:2])
            assert row.exercises == f"{len(found)} in {sum(one.minutes for one in found)} min"

    def test_the_plan_leads_through_every_notebook_once_and_stands_in_notebook_00(self) -> None:
        numbers = [number for _, group, _ in course_map.PLAN for number in group]
        assert numbers == [path.name[:2] for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
        assert course_map.plan_table() in prose("00_start_here")
        assert "(11_real_models.ipynb" in prose("00_start_here").partition("### Reading plan")[2]
        assert sum(course_map.exercise_minutes(number)[1] for number in numbers) == sum(
            one.minutes for one in EXERCISES.values()
        )

    def test_the_maps_in_notebook_00_and_in_the_readme_are_current(self) -> None:
        assert course_map.map_table() in prose("00_start_here")
        assert course_map.compact_map(folder="notebooks/") in (ROOT / "README.md").read_text(encoding="utf-8")

    def test_the_short_map_has_a_short_line_for_every_notebook(self) -> None:
        lines = course_map.compact_map(folder="notebooks/").splitlines()
        assert len(lines) == 2 + len(list((ROOT / "notebooks").glob("*.ipynb"))) == 14
        form = r"\| \[[^|]+\) \| [^|]+ \| \d in \d+ min \| [\d.]+ (?:s|min) \|"
        assert all(re.fullmatch(form, line) for line in lines[2:])

    def test_lost_marks_are_said_to_be_lost(self) -> None:
        with pytest.raises(SaferlrmError, match="put back"):
            course_map.between_marks("no marks", "table", "README.md")

    def test_links_with_a_heading_lead_to_it(self) -> None:
        for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
            for file, anchor in re.findall(r"\]\(([\w.]+)\.ipynb#([^)]+)\)", prose(path.stem)):
                anchors = {heading.replace(" ", "-") for heading in course_map.headings(file)}
                assert unquote(anchor) in anchors, f"{path.name}: {file}#{anchor}"


class TestPages:
    @pytest.mark.parametrize("name", PAGES)
    def test_a_page_is_current(self, name: str) -> None:
        assert (ROOT / name).read_text(encoding="utf-8") == PAGES[name](ROOT), "run: saferlrm report --readme"

    @pytest.mark.parametrize("name", PAGES)
    def test_links_of_a_page_lead_somewhere(self, name: str) -> None:
        path = ROOT / name
        for target in re.findall(r"\]\(([^)#]+)", path.read_text(encoding="utf-8")):
            assert target.startswith("https://") or (path.parent / target).exists(), target

    def test_writing_again_changes_nothing(self, tmp_path: Path) -> None:
        for name in ("results", "benchmarks", "notebooks", "docs"):
            shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("artefacts", "tidy"))
        shutil.copytree(ROOT / "saferlrm" / "organism" / "checkpoints", tmp_path / "saferlrm/organism/checkpoints")
        shutil.copy(ROOT / "README.md", tmp_path)
        for path in write_pages(tmp_path):
            assert path.read_bytes() == (ROOT / path.relative_to(tmp_path)).read_bytes(), path.name

    def test_the_cards_follow_the_results(self, tmp_path: Path) -> None:
        with pytest.raises(SaferlrmError, match="saferlrm run"):
            product.page(tmp_path)
        text = product.page(ROOT)
        for heading in ("saves", "cannot see", "monitor", "Model card", "Data card"):
            assert re.search(rf"^## .*{heading}", text, flags=re.MULTILINE)
        for number in re.findall(r"\d\.\d\d+ \[", product.SEEING + product.MONITORING + product.USE):
            pytest.fail(f"{number} was typed by hand")


class TestGlossary:
    @pytest.mark.parametrize("term", glossary.TERMS, ids=lambda term: term.term)
    def test_a_term_occurs_in_its_notebook(self, term: glossary.Term) -> None:
        text = " ".join(prose(term.stem).lower().split())
        assert (term.written or term.term).lower() in text

    def test_terms_are_many_short_and_in_order(self) -> None:
        names = [term.term.casefold().replace("λ", "lambda") for term in glossary.TERMS]
        assert len(names) >= 40
        assert names == sorted(set(names))
        assert all(20 <= len(term.says) <= 240 for term in glossary.TERMS)
