"""The page in Chromium beside Python, in one run: python benchmarks/web.py

For each length the time of a label with its words and sentences, in turns, so that drift hits both alike; with two
threads and with one. And how long a first visit takes until the first label, and a second one (medians), how many MB
come, and how long typing waits. Needs playwright and Debian's chromium.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from command import run_as_command
from machine import describe

from edge_imdb import Sentiment
from edge_imdb.web.server import make_server
from edge_imdb.web.site import Site, make_site

# In tokens; the embedded bundle reads no more than the last.
LENGTHS = (8, 32, 128, 384)
# Each visits the page twice, without what the others have in the cache.
VISITORS = 5
PICTURED = "The plot is thin and the dialogue wooden, but the leads are charming and the ending is wonderful."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="turns at each length")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--picture", type=Path, help="measure nothing; write a picture of the page to this file")
    options = parser.parse_args()
    site = make_site({"sentiment": None, "fill-mask": None})
    server = make_server(site, "127.0.0.1", 0)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    if options.picture:
        picture(address, options.picture)
        return
    report = measure(site, address, options.rounds)
    server.shutdown()
    print(table(report))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure(site: Site, address: str, rounds: int) -> dict[str, Any]:
    from playwright.sync_api import sync_playwright

    python = Sentiment()
    texts = {length: "film " * (length - 2) for length in LENGTHS}
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        visits: dict[str, list[float]] = {"cold": [], "cached": []}
        for _ in range(VISITORS):
            tab = browser.new_context().new_page()
            for seconds in visits.values():
                begin = time.perf_counter()
                tab.goto(address)
                tab.locator("body[data-shown]").wait_for(timeout=120_000)
                seconds.append(time.perf_counter() - begin)
                tab.locator("#engine").get_by_text("Saved for offline use.").wait_for(timeout=120_000)
        alone = browser.new_context(service_workers="block").new_page()
        # Without these headers there is no memory for threads to share.
        alone.route(address, lambda route: route.fulfill(content_type="text/html", body=site.read("index.html")))
        alone.goto(address)
        alone.locator("body[data-shown]").wait_for(timeout=120_000)
        engines = [page.locator("#engine").inner_text() for page in (tab, alone)]
        times: dict[str, dict[int, list[float]]] = {
            name: {length: [] for length in LENGTHS} for name in ("python", "chromium", "chromium, one thread")
        }
        for turn in range(rounds + 1):
            for length, text in texts.items():
                begin = time.perf_counter()
                python.explain(text)
                found = [1000 * (time.perf_counter() - begin), timed(tab, text), timed(alone, text)]
                # The first turn of each is not counted.
                for name, value in zip(times, found, strict=True):
                    times[name][length] += [value] if turn else []
        tab.locator("#text").fill(texts[LENGTHS[-1]])
        tab.evaluate(
            """() => { self.gap = 0; let last = performance.now(); const frame = (now) => {
              self.gap = Math.max(self.gap, now - last); last = now; requestAnimationFrame(frame); };
              requestAnimationFrame((now) => { last = now; frame(now); }); }"""
        )
        tab.locator("#text").press_sequentially(" and so on, and so on", delay=40)
        gap = tab.evaluate("self.gap")
        browser.close()
    packed = [name for name in site.files if not name.startswith("models/fill-mask")]
    return {
        "machine": describe(),
        "engines": engines,
        "median_ms": {
            name: {length: round(statistics.median(values), 1) for length, values in by.items()}
            for name, by in times.items()
        },
        "seconds_to_first_label": {visit: round(statistics.median(found), 2) for visit, found in visits.items()},
        "mb_to_first_label": round(sum(site.size(name) for name in packed) / 1e6, 1),
        "mb_to_first_label_gzip": round(sum(len(gzip.compress(site.read(name))) for name in packed) / 1e6, 1),
        "mb_with_fill_mask": round(sum(site.size(name) for name in site.files) / 1e6, 1),
        "longest_frame_ms_while_typing": round(gap, 1),
    }


def picture(address: str, target: Path) -> None:
    """The page with a review, its words coloured, and other words for one of them: README's picture."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 800, "height": 860}, device_scale_factor=1.5)
        tab.goto(address)
        tab.locator("body[data-shown]").wait_for(timeout=120_000)
        timed(tab, PICTURED)
        tab.get_by_role("button", name="charming: ").click()
        tab.get_by_role("button", name="Suggest other words").click()
        tab.locator("#gaps button").first.wait_for(timeout=120_000)
        tab.mouse.move(1, 1)
        tab.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
        box = tab.locator("#fill").bounding_box()
        clip = {"x": 0, "y": 0, "width": 800, "height": box["y"] + box["height"] + 16}
        tab.screenshot(path=target, clip=clip, full_page=True)
        browser.close()


def table(report: dict[str, Any]) -> str:
    """The times by length, and what a visit costs."""
    by = report["median_ms"]
    names = {"python": "Python", "chromium": "Chromium", "chromium, one thread": "Chromium, one thread"}
    lengths = [str(length) for length in LENGTHS]
    lines = ["| tokens | " + " | ".join(lengths) + " |", "|---" * (1 + len(lengths)) + "|"]
    for key, name in names.items():
        # As keys JSON has strings.
        figures = {str(length): value for length, value in by[key].items()}
        lines.append(f"| {name}, ms | " + " | ".join(f"{figures[length]:.1f}" for length in lengths) + " |")
    cold, cached = report["seconds_to_first_label"].values()
    return "\n".join(
        [
            *lines,
            "",
            "| a visit to the page | |",
            "|---|---|",
            f"| first visit: seconds to the first label | {cold:.2f} |",
            f"| second visit, from the cache | {cached:.2f} |",
            f"| MB to the first label, not compressed | {report['mb_to_first_label']:.1f} |",
            *(
                [f"| the same, compressed by gzip | {report['mb_to_first_label_gzip']:.1f} |"]
                if "mb_to_first_label_gzip" in report
                else []
            ),
            f"| MB with words for `[MASK]` too | {report['mb_with_fill_mask']:.1f} |",
            f"| longest gap between frames while a review of {LENGTHS[-1]} tokens is typed, ms | "
            f"{report['longest_frame_ms_while_typing']:.1f} |",
        ]
    )


def timed(tab: Any, text: str) -> float:
    """Milliseconds in the worker for one text."""
    # Another text first, because the same one again is not a change.
    tab.locator("#text").fill(text + " ")
    asked = tab.locator("body").get_attribute("data-asked")
    tab.locator(f"body[data-shown='{asked}']").wait_for(timeout=120_000)
    return float(tab.locator("body").get_attribute("data-ms"))


if __name__ == "__main__":
    run_as_command(main)
