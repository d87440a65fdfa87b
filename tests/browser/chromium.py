"""A real, headless Chromium: how it is started, what it asked the network for, and what it complained of."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

T = TypeVar("T")
FLAGS = (
    "--headless=new",
    "--no-sandbox",  # CI runs as root, where Chromium's sandbox refuses to start
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
)
LOCAL = {"localhost", "127.0.0.1", "::1"}
PATIENCE = 60.0  # seconds for something that takes one or two on an idle machine


def why_not() -> str | None:
    """Why there can be no browser tests here, or ``None`` if there can."""
    missing = [name for name in ("chromium", "chromedriver") if not shutil.which(name)]
    return f"not installed: {', '.join(missing)} (Debian: chromium, chromium-driver)" if missing else None


@contextlib.contextmanager
def started(profile: Path) -> Iterator[webdriver.Chrome]:
    """Chromium with a fresh user folder and logs of its console and its requests."""
    options = Options()
    options.binary_location = shutil.which("chromium") or ""
    for flag in (*FLAGS, f"--user-data-dir={profile}", "--window-size=1400,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = Service(shutil.which("chromedriver"), log_output=subprocess.DEVNULL)
    driver = webdriver.Chrome(options=options, service=service)
    driver.command_executor.client_config.timeout = 10 * PATIENCE  # a busy machine may take long over a long page
    driver.set_page_load_timeout(5 * PATIENCE)
    driver.set_script_timeout(5 * PATIENCE)
    try:
        yield driver
    finally:
        driver.quit()


def until(found: Callable[[], T], what: str, seconds: float = PATIENCE) -> T:
    """The first true value of ``found()``; fails with ``what`` when there is none in time."""
    end = time.monotonic() + seconds
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.2)


def width(driver: webdriver.Chrome, pixels: int, height: int = 1000) -> None:
    """A screen of this width; windows themselves cannot be narrower than 500 pixels."""
    screen = {"width": pixels, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)


def screenshot(driver: webdriver.Chrome, file: Path, whole: bool = True) -> None:
    """A picture of the page, by default of all of it."""
    pixels, height, shown = driver.execute_script(
        "return [innerWidth, document.documentElement.scrollHeight, innerHeight]"
    )
    if whole:  # a screen as high as the page: Chromium's own way beyond the screen moves things sideways
        width(driver, pixels, height)
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"format": "png"})
    if whole:
        width(driver, pixels, shown)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(base64.b64decode(shot["data"]))


def complaints(driver: webdriver.Chrome) -> list[str]:
    """Errors in the console since it was last asked for; a file that is not found counts."""
    return [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]


def strangers(driver: webdriver.Chrome) -> list[str]:
    """Addresses outside this machine that pages asked for since the log was last read."""
    return [url for url in _requests(driver) if urlsplit(url).hostname not in LOCAL]


def _requests(driver: webdriver.Chrome) -> Iterator[str]:
    for entry in driver.get_log("performance"):
        message: dict[str, Any] = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            url = message["params"]["request"]["url"]
            if urlsplit(url).scheme in ("http", "https", "ws", "wss", "ftp"):
                yield url
