"""A real browser without a window, where one is installed (Debian: apt-get install chromium)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--window-size=1200,900",
)


def browser() -> str:
    """The browser's command; skips the test where there is none."""
    found = os.environ.get("SPARC_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no headless browser: apt-get install chromium, or SPARC_CHROMIUM=PATH")
    return found


def asked(page: Path, script: str, *flags: str, after: str = "") -> str:
    """What `script`, run in the loaded page, leaves in `document.title`.

    The script is put at the end of a copy of the page: nothing from outside drives the browser.
    after: of the address, e.g. '#word=1'.
    """
    copy = page.with_name(f"asked_{page.name}")
    text = page.read_text(encoding="utf-8")
    assert "</body>" in text
    wait = f"<script>addEventListener('load', () => setTimeout(() => {{{script}}}, 200));</script>"
    copy.write_text(text.replace("</body>", f"{wait}</body>"), encoding="utf-8")
    command = [browser(), *FLAGS, *flags, "--virtual-time-budget=4000", "--dump-dom"]
    done = subprocess.run(
        [*command, f"{copy.as_uri()}{after}"], capture_output=True, text=True, timeout=120
    )
    found = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return found[1]
