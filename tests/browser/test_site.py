"""The web site as `make site` built it, served from this machine and read in a real browser."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import chromium
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROOT = Path(__file__).resolve().parents[2]
SITE, SHOTS = ROOT / "build" / "site", ROOT / "build" / "screenshots"
PAGES = sorted(
    path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html") if not path.is_relative_to(SITE / "_static")
)
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
WIDE, NARROW = 1400, 390
WORD = "calibration"

# The driver may come back while a long page is still being parsed: everything waits for the page's own load event.
READ = """
const done = arguments[arguments.length - 1];
const whole = document.readyState === "complete"
  ? Promise.resolve() : new Promise(resolve => addEventListener("load", resolve));
const shown = () => [
  window.MathJax && MathJax.startup ? MathJax.startup.promise : null,
  ...[...document.images].map(image => image.decode().catch(() => null)),
];
whole.then(() => Promise.all(shown())).then(() => done({
  title: document.title,
  ids: [...document.querySelectorAll("[id], a[name]")].flatMap(one => [one.id, one.getAttribute("name")]),
  links: [...document.querySelectorAll("a")]
    .map(a => a.getAttribute("href") || a.getAttribute("xlink:href"))
    .filter(href => href).map(href => new URL(href, document.baseURI).href),
  images: [...document.images].map(one => ({src: one.src.slice(0, 200), alt: one.alt, width: one.naturalWidth})),
  formulas: document.querySelectorAll(".bd-article .math").length,
  typeset: document.querySelectorAll(".bd-article .math mjx-container").length,
  wrong: [...document.querySelectorAll("mjx-merror, [data-mml-node=merror]")].map(one => one.textContent),
}));
"""
# Side bars that slide away would be caught half way.
STILL = """
document.head.appendChild(document.createElement("style")).textContent = "* { transition: none !important; }";
"""
# What sticks out of the screen and is not inside a box that scrolls by itself.
STICKS_OUT = """
const edge = document.documentElement.clientWidth + 1;
const scrolls = one => {
  for (let box = one.parentElement; box && box !== document.body; box = box.parentElement)
    if (["auto", "scroll", "hidden"].includes(getComputedStyle(box).overflowX)
        && box.getBoundingClientRect().right <= edge) return true;
  return false;
};
return [...document.querySelectorAll(".bd-article *")]
  .filter(one => one.getBoundingClientRect().width && one.getBoundingClientRect().right > edge && !scrolls(one))
  .slice(0, 5).map(one => one.outerHTML.slice(0, 120))
  .concat(document.documentElement.scrollWidth > edge ? [`page: ${document.documentElement.scrollWidth} px`] : []);
"""


@dataclass(frozen=True)
class Visit:
    """What a page showed, said and asked for."""

    found: dict
    complaints: list[str]
    strangers: list[str]
    sticks_out: dict[int, list[str]]


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    assert PAGES, "there is no site; run `make site`"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def visits(driver: webdriver.Chrome, address: str) -> dict[str, Visit]:
    """Every page, opened once: wide, then narrow, each time with a picture."""
    seen = {}
    for page in PAGES:
        chromium.width(driver, WIDE)
        chromium.complaints(driver), chromium.strangers(driver)
        driver.get(address + page)
        found = driver.execute_async_script(READ)
        driver.execute_script(STILL)
        sticks_out = {}
        for pixels in (WIDE, NARROW):
            chromium.width(driver, pixels)
            sticks_out[pixels] = driver.execute_script(STICKS_OUT)
            chromium.screenshot(driver, SHOTS / f"{page.removesuffix('.html').replace('/', '_')}_{pixels}.png")
        seen[page] = Visit(found, chromium.complaints(driver), chromium.strangers(driver), sticks_out)
    return seen


@pytest.fixture
def visit(visits: dict[str, Visit], request: pytest.FixtureRequest) -> Visit:
    return visits[request.param]


EACH = pytest.mark.parametrize("visit", PAGES, indirect=True)


def test_every_notebook_has_a_page_and_the_landing_page_leads_to_each(visits: dict[str, Visit], address: str) -> None:
    linked = {urlsplit(link).path for link in visits["index.html"].found["links"]}
    assert {f"/notebooks/{name}.html" for name in NOTEBOOKS} <= linked


@EACH
def test_a_page_loads_without_an_error(visit: Visit) -> None:
    assert visit.found["title"]
    assert not visit.complaints


@EACH
def test_a_page_asks_nobody_else_for_anything(visit: Visit) -> None:
    assert not visit.strangers


@EACH
def test_every_internal_link_and_anchor_resolves(visit: Visit, visits: dict[str, Visit], address: str) -> None:
    lost = []
    for link in set(visit.found["links"]):
        if not link.startswith(address):
            assert urlsplit(link).scheme in ("https", "http", "mailto", "javascript"), link
            continue
        parts = urlsplit(link)
        page = unquote(parts.path).lstrip("/") or "index.html"
        anchor = unquote(parts.fragment)
        if page in visits:
            if anchor and anchor not in visits[page].found["ids"]:
                lost.append(link)
        elif not (SITE / page).is_file():
            lost.append(link)
    assert not lost


@EACH
def test_images_load_and_say_what_they_show(visit: Visit) -> None:
    for image in visit.found["images"]:
        assert image["width"] > 0, f"{image['src']} did not load"
        assert len(image["alt"].split()) >= 3, f"{image['src']} has the alternative text {image['alt']!r}"


@EACH
def test_formulas_are_typeset(visit: Visit) -> None:
    assert visit.found["typeset"] == visit.found["formulas"]
    assert not visit.found["wrong"]


@pytest.mark.parametrize("pixels", [WIDE, NARROW])
@EACH
def test_nothing_sticks_out_of_the_screen(visit: Visit, pixels: int) -> None:
    assert not visit.sticks_out[pixels]


def test_search_finds_a_word_and_leads_to_it(driver: webdriver.Chrome, address: str) -> None:
    chromium.width(driver, WIDE)
    driver.get(f"{address}index.html")
    _shown(driver, "button.search-button, button.search-button__button")[0].click()
    field = chromium.until(lambda: _shown(driver, "input[type=search]"), "the search field")[0]
    field.send_keys(WORD, Keys.ENTER)
    _first_result(driver).click()
    chromium.until(lambda: "/notebooks/" in driver.current_url, "the page that was found")
    assert WORD in driver.find_element(By.CSS_SELECTOR, ".bd-article").text.lower()


def test_search_works_without_a_server_too(driver: webdriver.Chrome) -> None:
    driver.get(f"{(SITE / 'search.html').as_uri()}?q={WORD}")
    assert _first_result(driver).get_attribute("href").startswith("file:")


def test_dark_mode_can_be_chosen_and_is_drawn(driver: webdriver.Chrome, address: str) -> None:
    chromium.width(driver, WIDE)
    driver.get(f"{address}notebooks/{NOTEBOOKS[4]}.html")
    driver.execute_async_script(READ)
    for selector in ("button.theme-switch-button", "button.theme-change-button[data-mode=dark]"):
        chromium.until(lambda one=selector: _shown(driver, one), f"{selector} to be shown")[0].click()
    assert driver.execute_script("return document.documentElement.dataset.theme") == "dark"
    ground = driver.execute_script("return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert sum(ground[:3]) < 200
    chromium.screenshot(driver, SHOTS / "dark_1400.png")


def _shown(driver: webdriver.Chrome, selector: str) -> list[webdriver.remote.webelement.WebElement]:
    return [one for one in driver.find_elements(By.CSS_SELECTOR, selector) if one.is_displayed()]


def _first_result(driver: webdriver.Chrome) -> webdriver.remote.webelement.WebElement:
    results = "#search-results ul.search li a"
    return chromium.until(lambda: driver.find_elements(By.CSS_SELECTOR, results), f"a page about {WORD!r}")[0]
