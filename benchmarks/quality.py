"""What the embedded bundles score on all test reviews: python benchmarks/quality.py --data stanfordnlp/imdb

The figures of ``edge-imdb evaluate`` for each embedded bundle, and for sentiment also with --exact, in one file that
README and docs/results.md are made from. Speed is left out, because benchmarks/throughput.py measures it. On two cores
this takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import describe

RESULT = Path(__file__).parent / "results" / "quality.json"
RUNS = {
    "sentiment": ("sentiment", "--workers", "2"),
    "sentiment --exact": ("sentiment", "--exact", "--workers", "2"),
    "fill-mask": ("fill-mask", "--threads", "2"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="stanfordnlp/imdb", help="Hub id, folder or file of reviews")
    parser.add_argument("--only", choices=RUNS, help="one run; the file keeps the others")
    parser.add_argument("--json", type=Path, default=RESULT, help="the file to write")
    options = parser.parse_args()
    runs: dict[str, Any] = {}
    if options.only and options.json.exists():
        runs = json.loads(options.json.read_text(encoding="utf-8"))["runs"]
    for name in [options.only] if options.only else RUNS:
        task, *arguments = RUNS[name]
        runs[name] = {"weights": weights_of(task), "machine": describe(), **evaluate([task, *arguments], options.data)}
        options.json.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")


def evaluate(arguments: list[str], data: str) -> dict[str, Any]:
    """Run ``edge-imdb evaluate`` on the embedded bundle and return what it prints, without speed."""
    from edge_imdb.bundle import EMBEDDED

    command = [sys.executable, "-m", "edge_imdb", "evaluate", *arguments, "--data", data, "--split", "test", "--json"]
    print(" ".join(command[1:]), file=sys.stderr)
    # Without this option a command would prefer ./models to the embedded bundle.
    command += ["--model", str(EMBEDDED / arguments[0])]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {key: value for key, value in found.items() if not key.endswith("_per_second")}


def weights_of(task: str) -> str:
    """The sha256 of the embedded int8 weights, which says whether the figures are still theirs."""
    from edge_imdb.bundle import EMBEDDED, open_bundle

    bundle = open_bundle(EMBEDDED / task, task)
    name = bundle.weights("int8") or bundle.graphs["int8"]
    return str(bundle.files[name]["sha256"])


if __name__ == "__main__":
    main()
