"""The system's Chromium, in which pages are opened."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The system's Chromium."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium here: `apt-get install chromium` brings it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A page in a browser, and all that it said, asked for and ran since it was opened."""

    def __init__(self, browser: Any) -> None:
        self.page = browser.new_page()
        self.page.set_default_timeout(120_000)  # a loaded machine
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.add_init_script("window.hits = []; window.hit = (what) => window.hits.push(what);")
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(f"failed: {request.url}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: Path, fragment: str = "", width: int = 1200, scheme: str = "light") -> Any:
        """The page at `path`, on a screen `width` pixels wide, in the colour scheme `scheme`."""
        self.page.set_viewport_size({"width": width, "height": 900})
        self.page.emulate_media(media="screen", color_scheme=scheme)
        self.page.goto("about:blank")  # a change of the fragment alone would not load it anew
        self.complaints.clear()
        self.asked.clear()
        self.page.goto(path.as_uri() + (f"#{fragment}" if fragment else ""))
        return self.page

    @property
    def hits(self) -> list[str]:
        """What ran that must not."""
        return list(self.page.evaluate("window.hits"))

    def _dismiss(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()


@pytest.fixture(scope="session")
def visit(chromium: Any) -> Visit:
    """A page that every test opens anew."""
    return Visit(chromium)
