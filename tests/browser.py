"""A real browser for tests: Debian's Chromium, and whether people can use what it shows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PHONE, DESK = (390, 844), (1280, 800)
AXE = (Path(__file__).parent / "vendor/axe-core-4.14.1.min.js").read_text("utf-8")
# All that is wrong, by the rules of WCAG 2.2 AA and what is good practice besides.
ASK_AXE = """axe.run().then(found => JSON.stringify(found.violations.map(
    one => [one.id, one.nodes.map(node => `${node.target} ${(node.any[0] ?? {}).message}`)])))"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Ended at the end."""
    expect.set_options(timeout=30_000)  # beside other tests a page may take its time
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=OPTIONS)
        yield browser
        browser.close()


def complaints_of(page: Page) -> list[str]:
    """Whatever a page complains about from now on, such as what its policy forbids."""
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


def barriers(page: Page) -> list[Any]:
    """What keeps people from using the page, as axe-core finds it."""
    page.evaluate(AXE)
    found: list[Any] = json.loads(page.evaluate(ASK_AXE))
    return found


def width(page: Page) -> int:
    """How wide the page is, and so whether it has to be scrolled sideways."""
    return int(page.evaluate("document.documentElement.scrollWidth"))
