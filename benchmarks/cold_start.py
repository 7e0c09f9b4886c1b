"""Cold start, from a new process to a label: python benchmarks/cold_start.py

Seconds from the start of a process to its end, and its peak memory. The contenders take turns: edge-imdb, the imports
that any ONNX runtime of a tokenised model needs, and the peers, each of which labels "great film" with a checkpoint of
random weights on disk. Works on Linux and macOS, which report the memory of a child process.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from command import run_as_command
from machine import describe

OURS = "edge-imdb predict"
PIPELINE = """
from transformers import pipeline
print(pipeline("text-classification", model={0!r}, device="cpu")("great film")[0]["label"])
"""
OPTIMUM = """
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
model = ORTModelForSequenceClassification.from_pretrained({0!r}, file_name="model_quantized.onnx")
print(pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained({0!r}))("great film"))
"""
PIPELINES = ("transformers pipeline", "optimum int8 in a transformers pipeline")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="number of runs of each contender")
    parser.add_argument("--dim", type=int, default=768, help="width of the peers' model, 6 layers")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    if options.prepare:
        prepare(options.prepare, options.dim)
        return
    predict = ["-m", "edge_imdb", "predict", "great film"]
    commands: dict[str, list[str]] = {
        OURS: predict,
        "its imports: numpy, onnxruntime, tokenizers, click": ["-c", "import numpy, onnxruntime, tokenizers, click"],
    }
    large, *peers = (f"{name}, 6 x {options.dim}" for name in (OURS, *PIPELINES))
    left_out = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        # In its own process, because a child's peak memory is at least what its parent had when the child started.
        made = subprocess.run(
            [sys.executable, __file__, "--prepare", folder, "--dim", str(options.dim)], capture_output=True, text=True
        )
        if made.returncode:
            left_out = dict.fromkeys(peers, (made.stderr.strip() or "preparation failed").splitlines()[-1])
        else:
            commands[peers[0]] = ["-c", PIPELINE.format(str(scratch / "checkpoint"))]
            commands[large] = [*predict, "--model", str(scratch / "bundle")]
            commands[peers[1]] = ["-c", OPTIMUM.format(str(scratch / "optimum-int8"))]
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        with click.progressbar(range(options.rounds + 1), file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
            for number in bar:
                for name, arguments in commands.items():
                    figures = run([sys.executable, *arguments])
                    # The first round fills the disk cache.
                    if number:
                        runs[name].append(figures)
    ours = statistics.median(seconds for seconds, _ in runs[OURS])
    report: dict[str, Any] = {"machine": describe(), "contenders": {}, "left_out": left_out}
    for name, figures in runs.items():
        seconds = statistics.median(value for value, _ in figures)
        memory = statistics.median(value for _, value in figures)
        report["contenders"][name] = {"seconds": seconds, "ratio": seconds / ours, "peak_mib": memory, "runs": figures}
    print("\n".join(table(report)))
    for name, why in left_out.items():
        print(f"\nleft out: {name}, {why}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report as a Markdown table."""
    yield "| | seconds | times ours | peak memory, MiB |"
    yield "|---|---|---|---|"
    for name, row in report["contenders"].items():
        yield f"| {name} | {row['seconds']:.3f} | {row['ratio']:.2f} | {row['peak_mib']:.0f} |"


def prepare(scratch: Path, dim: int) -> None:
    """Write what the peers load: a checkpoint, our bundle made from it, and optimum's int8. Raises ImportError."""
    from contenders import Setting, edge_bundle, open_contender, random_checkpoint

    from edge_imdb.runtime.bundle import find_bundle

    bundle = find_bundle("sentiment")[0]
    checkpoint = random_checkpoint(scratch / "checkpoint", bundle, dim)
    edge_bundle(scratch / "bundle", checkpoint, bundle)
    open_contender("optimum, int8 (avx512_vnni)", Setting(bundle, checkpoint, scratch, [], []), 1)


def run(command: list[str]) -> tuple[float, float]:
    """Seconds and peak MiB of a process. Raises SystemExit if it fails."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)]
    start = time.perf_counter()
    child = os.posix_spawn(command[0], command, environment, file_actions=quiet)
    _, status, usage = os.wait4(child, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(command)[:120]} ended with {os.waitstatus_to_exitcode(status)}")
    return seconds, usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    run_as_command(main)
