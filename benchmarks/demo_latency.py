"""How long does the interactive page take from a move of the slider to the painted results?

    python benchmarks/demo_latency.py [build/demo.html]

Opens the page in headless Chromium, moves the slider 50 times, and
prints the median and the worst time until the frame after the change has been painted.
"""

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import browser

MOVES = 50
# From the event to the first moment after the frame that shows its result.
LISTEN = """() => {
  window.taken = [];
  document.getElementById('k').addEventListener('input', () => {
    const start = performance.now();
    requestAnimationFrame(() => setTimeout(() => taken.push(performance.now() - start)));
  }, true);
}"""
MOVE = """async k => {
  const slider = document.getElementById('k'), before = taken.length;
  slider.value = String(k);
  slider.dispatchEvent(new Event('input', {bubbles: true}));
  while (taken.length === before) await new Promise(done => setTimeout(done, 5));
}"""


def main(path: Path) -> int:
    """Measure one page; return the exit code."""
    if browser.missing():
        print(browser.missing(), file=sys.stderr)
        return 1
    with browser.chromium() as chrome:
        page = chrome.new_page(viewport={"width": 1280, "height": 900})
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("#chart path.line", state="attached")
        page.evaluate(LISTEN)
        size, dim = page.evaluate("[mrl.size, mrl.dim]")
        for rerank in (False, True):
            page.set_checked("#rerank", rerank)
            page.evaluate("taken.length = 0")
            for move in range(MOVES):
                page.evaluate(MOVE, 1 + (move * 37) % dim)
            taken = page.evaluate("taken")
            print(
                f"{size:,} texts, D = {dim}, {'shortlist and rerank' if rerank else 'plain'}: "
                f"median {statistics.median(taken):.1f} ms, worst {max(taken):.1f} ms "
                f"of {len(taken)} moves"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/demo.html")))
