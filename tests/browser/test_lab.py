"""JupyterLab, driven in a real browser as a reader would: open a notebook, Shift+Enter, move a slider."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import chromium
import nbformat
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

ROOT = Path(__file__).resolve().parents[2]
SHOTS = ROOT / "build" / "screenshots"
PLAIN, WITH_SLIDER = "01_reasoning_before_answering", "04_safety_decision_classifier"
CELL_SECONDS = 600.0  # a cell may compute a stage, with the profile smoke
SETTINGS = {
    # All cells stay in the page, and nothing asks for news.
    "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension/notification.jupyterlab-settings": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
}
CELLS = "return [...document.querySelectorAll('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell')]"
STATE = f"""{CELLS}.map(cell => ({{
  code: cell.classList.contains("jp-CodeCell"),
  prompt: (cell.querySelector(".jp-InputPrompt") || {{}}).textContent || "",
  active: cell.classList.contains("jp-mod-active"),
  bad: [...cell.querySelectorAll(
    '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
  )].map(one => one.textContent),
  pictures: [...cell.querySelectorAll(".jp-OutputArea-output img")].map(image => image.naturalWidth),
}}));"""


@dataclass(frozen=True)
class Lab:
    """A running JupyterLab and the folder of notebooks that it shows."""

    address: str
    token: str
    folder: Path


@pytest.fixture(scope="module")
def lab(driver: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab of this environment on a free port, over copies of the notebooks that were never run."""
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    shutil.copytree(ROOT / "notebooks", folder, ignore=shutil.ignore_patterns(".*"))
    for path in folder.glob("*.ipynb"):
        _as_new(path)
    for name, value in SETTINGS.items():
        file = home / "settings" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(value))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"} | {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "IPYTHONDIR": str(home / "ipython"),
    }
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
    ]  # fmt: skip
    address = f"http://127.0.0.1:{port}/"
    with (home / "log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
    try:
        chromium.until(lambda: server.poll() is not None or _answers(f"{address}api?token={token}"), "JupyterLab", 180)
        assert server.poll() is None, (home / "log").read_text()[-2000:]
        yield Lab(address, token, folder)
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(30)
        server.kill()


def _as_new(path: Path) -> None:
    """Takes the outputs away, so that what is seen later was computed here, and chooses the smallest profile."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
            if "parameters" in cell.metadata.get("tags", []):
                cell.source = cell.source.replace('profile = "organism"', 'profile = "smoke"')
                assert 'profile = "smoke"' in cell.source
    nbformat.write(notebook, path)


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as reply:
        return reply.status == 200
    return False


def opened(driver: webdriver.Chrome, lab: Lab, name: str) -> None:
    """Opens a notebook in a workspace of its own and waits for its kernel."""
    chromium.width(driver, 1400)
    driver.get(f"{lab.address}lab/workspaces/{name}/tree/{name}.ipynb?token={lab.token}")
    expected = len(nbformat.read(lab.folder / f"{name}.ipynb", as_version=4).cells)
    chromium.until(lambda: len(driver.execute_script(STATE)) == expected, f"{expected} cells of {name}", 300)
    idle = "return !!document.querySelector('.jp-Notebook-ExecutionIndicator[data-status=idle]')"
    chromium.until(lambda: driver.execute_script(idle), "an idle kernel", 300)


def run_cell_by_cell(driver: webdriver.Chrome) -> list[dict]:
    """Shift+Enter from the first cell to the last, each only when the one before it is done."""
    total = len(driver.execute_script(STATE))
    first = driver.execute_script(f"{CELLS}[0]")
    first.find_element(By.CSS_SELECTOR, ".jp-RenderedMarkdown, .jp-InputPrompt").click()
    counted = 0
    for index in range(total):
        cell = driver.execute_script(STATE)[index]
        assert cell["active"], f"Shift+Enter did not move on to cell {index}"
        driver.switch_to.active_element.send_keys(Keys.SHIFT, Keys.ENTER)
        if cell["code"]:
            counted += 1
            prompt = f"[{counted}]:"
            chromium.until(
                lambda i=index, text=prompt: driver.execute_script(STATE)[i]["prompt"] == text,
                f"{prompt} at cell {index}",
                CELL_SECONDS,
            )
        assert not driver.execute_script(STATE)[index]["bad"], f"cell {index}"
        if index + 1 < total:
            chromium.until(
                lambda i=index + 1: driver.execute_script(STATE)[i]["active"], f"the focus at cell {index + 1}"
            )
    return driver.execute_script(STATE)[:total]


@pytest.mark.parametrize("name", [PLAIN, WITH_SLIDER])
def test_a_notebook_runs_cell_by_cell_and_shows_its_figures(driver: webdriver.Chrome, lab: Lab, name: str) -> None:
    opened(driver, lab, name)
    cells = run_cell_by_cell(driver)
    chromium.screenshot(driver, SHOTS / f"lab_{name}.png", whole=False)
    code = [cell for cell in cells if cell["code"]]
    assert [cell["prompt"] for cell in code] == [f"[{i}]:" for i in range(1, len(code) + 1)]
    assert not [text for cell in cells for text in cell["bad"]]
    pictures = [width for cell in cells for width in cell["pictures"]]
    assert pictures
    assert all(width > 300 for width in pictures)


def test_moving_the_slider_changes_the_figure(driver: webdriver.Chrome, lab: Lab) -> None:
    """Goes on in the notebook that the test before has run."""
    if WITH_SLIDER not in driver.current_url:
        opened(driver, lab, WITH_SLIDER)
        run_cell_by_cell(driver)
    handle = driver.find_element(By.CSS_SELECTOR, ".jp-OutputArea .widget-slider .noUi-handle")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", handle)
    cell = driver.execute_script("return arguments[0].closest('.jp-Cell')", handle)
    before = cell.find_element(By.CSS_SELECTOR, "img").get_attribute("src")
    readout = cell.find_element(By.CSS_SELECTOR, ".widget-readout")
    shown = readout.text
    chromium.screenshot(driver, SHOTS / "lab_slider_before.png", whole=False)
    handle.send_keys(*[Keys.ARROW_RIGHT] * 10)
    chromium.until(
        lambda: cell.find_element(By.CSS_SELECTOR, "img").get_attribute("src") != before, "another figure", 120
    )
    assert float(readout.text) > float(shown)
    chromium.screenshot(driver, SHOTS / "lab_slider_after.png", whole=False)
    assert len(cell.find_elements(By.CSS_SELECTOR, "img")) == 1, "the new figure stands in the place of the old one"
