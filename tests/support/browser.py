"""Debian's Chromium, driven by Playwright."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path("/usr/bin/chromium")


@contextmanager
def open_browser() -> Iterator[Any]:
    """A browser without a window; skips the test where there is none, or fails it if PG_S3_REQUIRE_TOOLS=1."""
    if not CHROMIUM.exists():
        reason = f"{CHROMIUM} is missing: sudo make tools"
        if os.environ.get("PG_S3_REQUIRE_TOOLS") == "1":
            pytest.fail(f"PG_S3_REQUIRE_TOOLS=1, but {reason}")
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # The sandbox of Chromium needs another user than root.
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()
