"""Draw the pictures of the interactive page that README and lesson 07 show.

    python benchmarks/demo_picture.py [build/demo.html]

The page is built from the docstrings of installed libraries if it is not there yet.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import browser

from mrl_course import cli

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURES = {  # name: width, height, colour scheme
    "demo.png": (1120, 1000, "light"),
    "demo_phone_dark.png": (390, 844, "dark"),
}


def main(path: Path) -> int:
    """Take the pictures of one page; return the exit code."""
    if browser.missing():
        print(browser.missing(), file=sys.stderr)
        return 1
    if not path.exists() and cli.main(["demo", "--out", str(path)]):
        return 1
    with browser.chromium() as chrome:
        for name, (width, height, scheme) in PICTURES.items():
            page = chrome.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto(path.resolve().as_uri())
            page.wait_for_selector("#chart path.line", state="attached")
            page.locator("#time", has_text="ms").wait_for()
            page.screenshot(path=DOCS / name)
            print(f"wrote docs/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo.html")))
