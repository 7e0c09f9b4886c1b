"""Reviews per second: python benchmarks/throughput.py --data stanfordnlp/imdb

Ours labels --reviews reviews of the split, with one thread per worker, as `edge-imdb predict --workers` does. The peers
take minutes for a thousand reviews, so they label only the first ones (--peer-reviews), one at a time. The reviews are
shuffled with a fixed seed, so the first ones are a random sample. The file has the accuracy on them too, to show that
every contender does the same work; on the whole split benchmarks/quality.py measures it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from command import run_as_command
from contenders import CONTENDERS, Setting, bundle_checkpoint, open_contender
from machine import describe
from quality import weights_of

PEERS = [name for name in CONTENDERS if not name.startswith("edge-imdb")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Hub id, folder or file of reviews")
    parser.add_argument("--split", default="test", help="its split")
    parser.add_argument("--checkpoint", type=Path, help="the run of the bundle, for the peers; default: its weights")
    parser.add_argument("--reviews", type=int, default=2000, help="the most reviews for ours")
    parser.add_argument(
        "--peer-reviews", type=int, default=300, help="number of reviews for each peer; 0 leaves the peers out"
    )
    parser.add_argument("--threads", default="1,2", help="threads, separated by commas")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    from edge_imdb import Sentiment
    from edge_imdb.data.datasets import read_reviews
    from edge_imdb.data.text import clean
    from edge_imdb.runtime.bundle import find_bundle

    bundle = find_bundle("sentiment")[0]
    reviews = read_reviews(options.data, options.split, "text", "label", names=Sentiment().labels)
    order = np.random.default_rng(0).permutation(len(reviews.texts))[: options.reviews]
    texts, labels = [clean(reviews.texts[i]) for i in order], np.array([reviews.labels[i] for i in order])
    rows: list[dict[str, Any]] = []

    def measure(name: str, threads: int, found: Iterable[int], count: int) -> None:
        start = time.perf_counter()
        with click.progressbar(found, length=count, label=name, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
            answers = np.fromiter(bar, dtype=int, count=count)
        seconds = time.perf_counter() - start
        rows.append({"name": name, "threads": threads, "reviews": count, "reviews_per_second": count / seconds})
        rows[-1]["accuracy"] = float((answers == labels[:count]).mean())

    numbers = [int(n) for n in options.threads.split(",")]
    for exact in (False, True):
        model = Sentiment(threads=1, exact=exact)
        for workers in numbers:
            results = model.stream(texts, workers=workers)
            found = (model.labels.index(result["label"]) for result in results)
            measure(f"edge-imdb{' --exact' if exact else ''}", workers, found, len(texts))
    left_out = {}
    with tempfile.TemporaryDirectory() as folder:
        some = texts[: options.peer_reviews]
        if some:
            try:
                checkpoint = options.checkpoint or bundle_checkpoint(Path(folder, "checkpoint"), bundle)
                setting = Setting(bundle, checkpoint, Path(folder), some[:64], [])
            except ImportError as error:
                left_out = {name: f"needs {error.name or error}" for name in PEERS}
        for name in PEERS if some and not left_out else []:
            for threads in numbers:
                try:
                    contender = open_contender(name, setting, threads)
                except ImportError as error:
                    left_out[name] = f"needs {error.name or error}"
                    break
                contender.read(some[0])
                measure(name, threads, map(contender.read, some), len(some))
    report = {"machine": describe(), "weights": weights_of("sentiment"), "rows": rows, "left_out": left_out}
    print("\n".join(table(report)))
    for name, why in left_out.items():
        print(f"\nleft out: {name}, {why}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report as a Markdown table."""
    yield "| | threads | reviews | reviews per second |"
    yield "|---|---|---|---|"
    for row in report["rows"]:
        cells = (row["threads"], row["reviews"], f"{row['reviews_per_second']:.1f}")
        yield f"| {row['name']} | {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    run_as_command(main)
