"""A real browser: Debian's Chromium, headless, without its own talk to the network."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, Playwright

CHROMIUM = Path("/usr/bin/chromium")
OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def opened(browser: Browser, path: Path, scheme: str, size: dict[str, int]) -> tuple[Page, list[str]]:
    """Return a page from a file, and what it tells: messages, errors, and addresses that it asks for."""
    page = browser.new_page(viewport={"width": size["width"], "height": size["height"]}, color_scheme=scheme)  # type: ignore[arg-type]
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: None if request.url.startswith("file:") else told.append(request.url))
    page.goto(path.as_uri())
    return page, told


@contextmanager
def browser_in(playwright: Playwright, netns: str, directory: Path) -> Iterator[Page]:
    """Give a page of a browser that is in a network namespace."""
    start = directory / "chromium"
    start.write_text(f'#!/bin/sh\nexec ip netns exec {shlex.quote(netns)} {CHROMIUM} "$@"\n')
    start.chmod(0o755)
    started = playwright.chromium.launch(executable_path=str(start), args=OPTIONS)
    try:
        yield started.new_page(viewport={"width": DESK["width"], "height": DESK["height"]})
    finally:
        started.close()


def screenshot(page: Page, name: str) -> None:
    """Keep what is shown for the documentation, in the light and in the dark, where SCREENSHOTS names a folder."""
    folder = os.environ.get("SCREENSHOTS")
    if folder is None:
        return
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=Path(folder) / f"{name}-{scheme}.png", full_page=False)
    page.emulate_media(color_scheme="light")
