"""What the embedded bundles score: python benchmarks/quality.py --data stanfordnlp/imdb --sentences stanfordnlp/sst2

The figures of ``edge-imdb evaluate`` for each embedded bundle, and for sentiment also with --exact, in one file that
README and docs/results.md are made from: on the test split of --data, and on the validation splits of --sentences and
--counterfactual, if they are given. Speed is left out, because benchmarks/throughput.py measures it. On two cores this
takes about a quarter of an hour.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from command import run_as_command
from machine import describe

RESULT = Path(__file__).parent / "results" / "quality.json"
# The option that names the data, the split, and the arguments of evaluate.
RUNS = {
    "sentiment": ("data", "test", ("sentiment", "--workers", "2")),
    "sentiment --exact": ("data", "test", ("sentiment", "--exact", "--workers", "2")),
    "sentiment, sentences": ("sentences", "validation", ("sentiment", "--workers", "2")),
    "sentiment, counterfactual": ("counterfactual", "validation", ("sentiment", "--workers", "2")),
    "fill-mask": ("data", "test", ("fill-mask", "--threads", "2")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="stanfordnlp/imdb", help="Hub id, folder or file of reviews")
    parser.add_argument("--sentences", help="Hub id or folder of labelled sentences, such as stanfordnlp/sst2")
    parser.add_argument("--sentences-column", default="sentence", help="column of --sentences with the text")
    parser.add_argument("--counterfactual", help="Hub id or folder of counterfactual reviews")
    parser.add_argument("--only", choices=RUNS, help="one run; the file keeps the others")
    parser.add_argument("--json", type=Path, default=RESULT, help="the file to write")
    options = parser.parse_args()
    runs: dict[str, Any] = {}
    if options.json.exists():
        runs = json.loads(options.json.read_text(encoding="utf-8"))["runs"]
    for name in [options.only] if options.only else RUNS:
        source, split, arguments = RUNS[name]
        data = getattr(options, source)
        if data is None:
            print(f"left out: {name}, which needs --{source}", file=sys.stderr)
            continue
        column = options.sentences_column if source == "sentences" else "text"
        found = evaluate([*arguments, "--data", data, "--split", split, "--text-column", column])
        runs[name] = {"weights": weights_of(arguments[0]), "machine": describe(), **found}
        options.json.write_text(json.dumps({"runs": runs}, indent=1) + "\n", encoding="utf-8")


def evaluate(arguments: list[str]) -> dict[str, Any]:
    """Run ``edge-imdb evaluate`` on the embedded bundle and return what it prints, without speed."""
    from edge_imdb.runtime.bundle import EMBEDDED

    command = [sys.executable, "-m", "edge_imdb", "evaluate", *arguments, "--json"]
    print(" ".join(command[1:]), file=sys.stderr)
    # Without this option a command would prefer ./models to the embedded bundle.
    command += ["--model", str(EMBEDDED / arguments[0])]
    found: dict[str, Any] = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    return {key: value for key, value in found.items() if not key.endswith("_per_second")}


def weights_of(task: str) -> str:
    """The sha256 of the embedded int8 weights, which says whether the figures are still theirs."""
    from edge_imdb.runtime.bundle import EMBEDDED, open_bundle

    bundle = open_bundle(EMBEDDED / task, task)
    name = bundle.weights("int8") or bundle.graphs["int8"]
    return str(bundle.files[name]["sha256"])


if __name__ == "__main__":
    run_as_command(main)
