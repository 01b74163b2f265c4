"""A headless Chromium for tests and pictures of the interactive page."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator

CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 300_000
"""Milliseconds to wait for a browser or a page: a busy machine must not turn a test red."""
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def missing() -> str:
    """Say what a machine lacks to run browser tests; empty if it has all."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "needs playwright: pip install playwright"
    return "" if executable() else "needs Chromium: apt-get install chromium, or set CHROMIUM"


def executable() -> str | None:
    """The browser of the system, or the one that the variable CHROMIUM names."""
    found = (shutil.which(name) for name in (os.environ.get("CHROMIUM", ""), *CHROMIUM) if name)
    return next(filter(None, found), None)


@contextlib.contextmanager
def chromium() -> Iterator:
    """A running browser; ``new_context()`` and ``new_page()`` open windows in it."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable(), args=ARGUMENTS, timeout=PATIENCE
        )
        try:
            yield browser
        finally:
            browser.close()
