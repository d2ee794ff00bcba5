"""A headless Chromium for the tests of pages; they skip where the machine has none.

A test file that wants it says ``pytest_plugins = ("browser",)`` and takes the fixture ``browser``.
"""

import base64
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import TimeoutException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # whatever asks for another machine gets nothing
)  # fmt: skip


class Browser:
    """One Chromium with one page open at a time."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver
        self._scheme: list[dict[str, str]] = []

    def open(
        self, page: Path, *, width_px: int = 1280, height_px: int = 800, dark: bool = False, scripts: bool = True
    ) -> None:
        """Show a file, in a window of this size; forgets what earlier pages logged and asked for."""
        self._log("browser"), self._log("performance")
        self._scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        size = {"width": width_px, "height": height_px, "deviceScaleFactor": 1, "mobile": width_px < 600}
        self._command("Emulation.setEmulatedMedia", media="", features=self._scheme)
        self._command("Emulation.setDeviceMetricsOverride", **size)
        self._command("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._driver.get(page.as_uri())

    def visit(self, url: str, *, until: str, seconds: float = 60.0) -> str:
        """Open an address, in a window of a desk's size, and return the page's text as soon as it holds ``until``."""
        size = {"width": 1600, "height": 1200, "deviceScaleFactor": 1, "mobile": False}
        self._command("Emulation.setDeviceMetricsOverride", **size)
        self._driver.get("about:blank")  # an address that differs after # only would not be loaded anew
        self._driver.get(url)
        wait = WebDriverWait(self._driver, seconds, poll_frequency=0.2)
        try:
            return str(wait.until(lambda _: until in self.text() and self.text()))
        except TimeoutException:
            raise AssertionError(f"{url}: no {until!r} after {seconds:g} s in: {self.text()[:2000]}") from None

    def wait_for(self, script: str, *, seconds: float = 60.0) -> None:
        """Wait until JavaScript returns true."""
        WebDriverWait(self._driver, seconds, poll_frequency=0.2).until(lambda _: self.run(script), script)

    def text(self) -> str:
        """Return what can be read on the page now."""
        return str(self.run("return document.body ? document.body.innerText : ''"))

    def picture(self, path: Path) -> None:
        """Save what the window shows."""
        self._driver.save_screenshot(str(path))

    def allow_scripts(self) -> None:
        """Let the test look at a page that was opened without scripts; the page's own do not run any more."""
        self._command("Emulation.setScriptExecutionDisabled", value=False)

    def tap(self, x_px: float, y_px: float) -> None:
        """Touch the window at a place and let go."""
        self._command("Emulation.setTouchEmulationEnabled", enabled=True)
        self._command("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x_px, "y": y_px}])
        self._command("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        self._command("Emulation.setTouchEmulationEnabled", enabled=False)

    def print_media(self) -> None:
        """Lay the open page out as for paper, in the colours that the screen prefers."""
        self._command("Emulation.setEmulatedMedia", media="print", features=self._scheme)

    def pdf(self) -> bytes:
        """Print the open page on A4, without what browsers call background graphics."""
        settings = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": False}
        return base64.b64decode(self._command("Page.printToPDF", **settings)["data"])

    def run(self, script: str, *arguments: object) -> Any:
        """Return what JavaScript returns; it gets the arguments as ``arguments``."""
        return self._driver.execute_script(script, *arguments)

    def find(self, selector: str) -> list[WebElement]:
        """Return the elements that a CSS selector names."""
        return self._driver.find_elements(By.CSS_SELECTOR, selector)

    def messages(self) -> list[str]:
        """Return what the console said since the page was opened, errors above all."""
        return [entry["message"] for entry in self._log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for since it was opened, pictures inside it left out."""
        events = [json.loads(entry["message"])["message"] for entry in self._log("performance")]
        sent = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
        return [url for url in sent if not url.startswith("data:")]

    def _command(self, name: str, **parameters: object) -> Any:
        return self._driver.execute_cdp_cmd(name, parameters)

    def _log(self, name: str) -> list[Any]:
        entries: list[Any] = self._driver.get_log(name)
        return entries


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for the session, with a profile of its own; starting it takes two seconds."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium and chromedriver on this machine (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # The driver's own path: without it selenium would look for one to download.
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        driver.quit()
