"""The pictures of docs/dashboard.md, taken of the running thing, after `make venv browser`.

They are small on purpose, as a repository keeps each for ever.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs" / "pictures"
#: Bytes of a picture, at most.
MOST = 150_000
#: Seconds in which the shop gets something to show.
PATIENCE = 60

#: Name, page, width, height, colours.
SHOTS = (
    ("services", "#/", 1100, 480, "light"),
    ("graph", "#/graph", 1100, 420, "dark"),
    ("method", "#/service/payments/charge", 390, 760, "light"),
)


def main() -> None:
    PICTURES.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "warren", "demo", "--operate", "--seconds", "600"]
    demo = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert demo.stdout is not None
        found = next(filter(None, (re.search(r"the dashboard: (\S+)", line) for line in demo.stdout)))
        time.sleep(PATIENCE)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            for shot in SHOTS:
                take(browser, found[1], *shot)
            browser.close()
    finally:
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=60)


def take(browser: Browser, address: str, name: str, page_of: str, width: int, height: int, colours: str) -> None:
    """Take one; SystemExit if it is too large."""
    page = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme="dark" if colours == "dark" else "light"
    )
    page.goto(address)
    page.wait_for_selector("#live.on")
    page.goto(address.partition("?")[0] + page_of)
    page.wait_for_timeout(5000)
    path = PICTURES / f"dashboard-{name}.png"
    page.screenshot(path=path)
    page.close()
    if path.stat().st_size > MOST:
        sys.exit(f"{path} has {path.stat().st_size} bytes; make its part of the page smaller")
    print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
