"""edge-imdb against its peers, one text at a time: python benchmarks/latency.py

The same checkpoint, the same texts and the same number of threads, in one run. With fixed lengths: from token ids to a
label. With --data also on real reviews: from text to a label, with tokenising. The contenders take turns, so that drift
affects all of them equally. A turn begins when the threads of the previous contender have gone to sleep, because some
spin for 200 ms on a core that the next one needs. Its first run isn't counted, because the caches are cold.

The peers get the weights of our bundle, read back from int8, or with --checkpoint those that it was exported from. With
--dim all get random weights. Peers that aren't installed are named and left out: pip install '.[bench]'.

  python benchmarks/latency.py
  python benchmarks/latency.py --dim 768
  python benchmarks/latency.py --data stanfordnlp/imdb
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from command import run_as_command
from contenders import (
    CONTENDERS,
    OURS,
    PREVIOUS,
    Contender,
    Setting,
    bundle_checkpoint,
    edge_bundle,
    open_contender,
    random_checkpoint,
)
from machine import describe, int8_rate, peak_mib

LENGTHS = (8, 32, 128, 256, 512)
RUNS_A_TURN = 3
REVIEWS_A_TURN = 10
FULL_SIZE = "transformers pipeline (PyTorch eager), 6 x 768"
EAGER = "transformers pipeline (PyTorch eager)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="our bundle; by default the one that edge-imdb info shows")
    parser.add_argument("--previous", type=Path, help="an older bundle of ours to compare with")
    parser.add_argument("--checkpoint", type=Path, help="the run that the bundle was exported from, for the peers")
    parser.add_argument("--dim", type=int, help="compare 6 layers of this width with random weights, ours too")
    parser.add_argument("--data", help="Hub id, folder or file of reviews; adds the benchmark on reviews")
    parser.add_argument("--reviews", type=int, default=500, help="test reviews drawn from --data with a fixed seed")
    parser.add_argument("--threads", default="1,2", help="threads, separated by commas")
    parser.add_argument("--rounds", type=int, default=5, help="number of turns of each contender at each length")
    parser.add_argument("--only", help="run contenders with one of these words in their names")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--plot", type=Path, default=Path("latency.png"), help="file for the picture")
    parser.add_argument("--probe", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        probe(*options.probe)
        return
    if options.checkpoint and options.dim:
        parser.error("--dim uses random weights: leave out --checkpoint")
    with tempfile.TemporaryDirectory() as scratch:
        report = measure_all(options, Path(scratch))
    print("\n\n".join(tables(report)))
    draw(report, options.plot)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def measure_all(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    from edge_imdb.runtime.bundle import find_bundle

    bundle = find_bundle("sentiment", options.model)[0]
    left_out: dict[str, str] = {}
    if options.dim:
        checkpoint = random_checkpoint(scratch / "checkpoint", bundle, options.dim)
        bundle = edge_bundle(scratch / "bundle", checkpoint, bundle)
    else:
        try:
            checkpoint = options.checkpoint or bundle_checkpoint(scratch / "checkpoint", bundle)
        except ImportError as error:
            # The peers have nothing to run; ours needs no checkpoint.
            checkpoint = bundle
            left_out = {name: f"needs {error.name or error}" for name in CONTENDERS if not name.startswith("edge-imdb")}
    texts, labels, test = read_data(options.data, options.reviews, bundle) if options.data else ([], [], [])
    setting = Setting(bundle, checkpoint, scratch, texts, labels, options.previous)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    names = [n for n in CONTENDERS if not options.only or n == OURS or any(w in n for w in options.only.split(","))]
    if options.previous is None:
        names = [name for name in names if name != PREVIOUS]
    report: dict[str, Any] = {
        "machine": describe(),
        "model": {
            "layers": config["n_layers"],
            "width": config["dim"],
            "weights": "random" if options.dim else "trained",
        },
        "reviews": len(test),
        "left_out": left_out,
        "mib": {},
        "memory_mib": {},
        "threads": {},
    }
    large = None
    if test:
        large = Setting(bundle, random_checkpoint(scratch / "large", bundle, 768), scratch, [], [])
    for threads in [int(n) for n in options.threads.split(",")]:
        open_: dict[str, Contender] = {}
        for name in with_bar(names, f"open, {threads} threads"):
            if name in report["left_out"]:
                continue
            try:
                open_[name] = open_contender(name, setting, threads)
                report["mib"][name] = open_[name].mib
            except ImportError as error:
                report["left_out"][name] = f"needs {error.name or error}"
        report["threads"][str(threads)] = record = {"int8_macs_a_second": int8_rate(threads)}
        runs = {name: contender.run for name, contender in open_.items() if contender.run is not None}
        record["lengths"] = measure_lengths(runs, options.rounds, threads)
        record["roofline_ms"] = {str(n): 1000 * macs(config, n) / record["int8_macs_a_second"] for n in LENGTHS}
        if large is not None:
            open_[FULL_SIZE] = open_contender(EAGER, large, threads)
            report["mib"][FULL_SIZE] = open_[FULL_SIZE].mib
            trained = {n for n in open_ if n != FULL_SIZE and (not options.dim or n.startswith("scikit"))}
            reads = {name: contender.read for name, contender in open_.items()}
            record["real"] = measure_reviews(reads, test, threads, trained)
    if test:
        # Each in its own process, because libraries that one contender loads would not count for the next.
        for name in with_bar(list(report["mib"]), "memory"):
            place = large if name == FULL_SIZE else setting
            assert place is not None
            previous = None if place.previous is None else str(place.previous)
            folders = json.dumps([str(place.bundle), str(place.checkpoint), str(place.scratch), previous])
            out = subprocess.run(
                [sys.executable, __file__, "--probe", EAGER if name == FULL_SIZE else name, folders],
                capture_output=True,
                text=True,
                check=True,
            )
            report["memory_mib"][name] = float(out.stdout.split()[-1])
    return report


def probe(name: str, folders: str) -> None:
    """Print the peak memory of a process that opens a contender, built before, and labels a review."""
    *places, previous = json.loads(folders)
    bundle, checkpoint, scratch = map(Path, places)
    setting = Setting(bundle, checkpoint, scratch, ["", ""], [0, 1], None if previous is None else Path(previous))
    contender = open_contender(name, setting, 2)
    contender.read("What a film! " * 40)
    print(peak_mib())


def read_data(data: str, count: int, bundle: Path) -> tuple[list[str], list[int], list[tuple[str, int]]]:
    """Train reviews with their labels, and ``count`` test reviews, all cleaned as ours are."""
    from edge_imdb.data.datasets import read_reviews
    from edge_imdb.data.splits import sample
    from edge_imdb.data.text import clean
    from edge_imdb.runtime.bundle import open_bundle

    names = open_bundle(bundle, "sentiment").labels
    test = read_reviews(data, "test", "text", "label", names=names)
    train = read_reviews(data, "train", "text", "label", names=names)
    # Hub data sets come sorted by label.
    order = np.random.default_rng(0).permutation(len(train.texts))
    chosen = [(clean(test.texts[i]), test.labels[i]) for i in sample(test.texts, count, seed=0)]
    return [clean(train.texts[i]) for i in order], [train.labels[i] for i in order], chosen


def measure_lengths(runs: dict[str, Callable[[list[int]], int]], rounds: int, threads: int) -> dict[str, Any]:
    """Milliseconds of each contender at each length, the contenders taking turns."""
    draw_ids = np.random.default_rng(0)
    times: dict[str, dict[str, list[float]]] = {str(n): {name: [] for name in runs} for n in LENGTHS}
    for _ in with_bar(range(rounds), f"lengths, {threads} threads"):
        for length in LENGTHS:
            ids = [101, *draw_ids.integers(1000, 30000, length - 2).tolist(), 102]
            for name, run in runs.items():
                settle()
                run(ids)
                for _ in range(RUNS_A_TURN):
                    start = time.perf_counter()
                    run(ids)
                    times[str(length)][name].append(1000 * (time.perf_counter() - start))
    return {length: compare(rows, np.median) for length, rows in times.items()}


def measure_reviews(
    reads: dict[str, Callable[[str], int]], reviews: list[tuple[str, int]], threads: int, trained: set[str]
) -> dict[str, Any]:
    """Milliseconds per review of each contender, ten reviews per turn, and the accuracy of the ``trained`` ones."""
    times: dict[str, list[float]] = {name: [] for name in reads}
    right = dict.fromkeys(reads, 0)
    starts = range(0, len(reviews), REVIEWS_A_TURN)
    for first in with_bar(starts, f"reviews, {threads} threads"):
        turn = reviews[first : first + REVIEWS_A_TURN]
        for name, read in reads.items():
            settle()
            read(turn[0][0])
            for text, label in turn:
                start = time.perf_counter()
                found = read(text)
                times[name].append(1000 * (time.perf_counter() - start))
                right[name] += found == label
    figures = compare(times, np.mean)
    for name in trained:
        figures[name]["accuracy"] = right[name] / len(reviews)
    return figures


def settle(step: float = 0.005, most: float = 0.5) -> None:
    """Wait until the other threads of this process are idle, for at most ``most`` seconds."""
    end = time.perf_counter() + most
    while time.perf_counter() < end:
        before = time.process_time()
        time.sleep(step)
        if time.process_time() - before < step / 5:
            return


def compare(times: dict[str, list[float]], middle: Callable[..., Any]) -> dict[str, Any]:
    """Percentiles of each contender, and the ratio of its ``middle`` to ours with a 95 % bootstrap interval.

    Both sides of a ratio use the same draws. *Shape:* lists of equal length.
    """
    ours = np.array(times[OURS])
    draws = np.random.default_rng(0).integers(0, len(ours), size=(1000, len(ours)))
    figures = {}
    for name, values in times.items():
        row = np.array(values)
        ratios = middle(row[draws], axis=1) / middle(ours[draws], axis=1)
        figures[name] = {
            "p50": float(np.percentile(row, 50)),
            "p95": float(np.percentile(row, 95)),
            "p99": float(np.percentile(row, 99)),
            "mean": float(row.mean()),
            "ratio": float(middle(row) / middle(ours)),
            "ratio_low": float(np.percentile(ratios, 2.5)),
            "ratio_high": float(np.percentile(ratios, 97.5)),
        }
    return figures


def macs(config: dict[str, Any], length: int) -> float:
    """Multiply-adds of the edge graph for one text: all layers but the last, of which only one row is computed."""
    width, inner = config["dim"], config["hidden_dim"]
    products = (4 * width * width + 2 * width * inner) * length
    return float((config["n_layers"] - 1) * (products + 2 * length * length * width))


def tables(report: dict[str, Any]) -> Iterator[str]:
    """The report as Markdown."""
    machine, model = report["machine"], report["model"]
    yield (
        f"{model['layers']} x {model['width']}, {model['weights']} weights; {machine['cpu']}, "
        f"{machine['cores']} cores, {', '.join(machine['flags'])}; "
        + ", ".join(f"{k} {v}" for k, v in machine["versions"].items())
    )
    for name, why in report["left_out"].items():
        yield f"left out: {name}, {why}"
    for threads, record in report["threads"].items():
        heading = f"{threads} thread{'s' if threads != '1' else ''}"
        yield f"Fixed lengths, {heading}: p50 in ms (and times ours)\n\n" + "\n".join(length_rows(record))
        if "real" in record:
            yield f"{report['reviews']} test reviews, {heading}: text to label, ms\n\n" + "\n".join(
                review_rows(report, record["real"])
            )


def length_rows(record: dict[str, Any]) -> Iterator[str]:
    lengths = record["lengths"]
    yield f"| tokens | {' | '.join(lengths)} | times ours, geometric mean |"
    yield f"|---|{'---|' * len(lengths)}---|"
    names = list(next(iter(lengths.values())))
    for name in names:
        cells = [
            f"{figures[name]['p50']:.2f}" + ("" if name == OURS else f" ({figures[name]['ratio']:.2f})")
            for figures in lengths.values()
        ]
        mean = statistics.geometric_mean(figures[name]["ratio"] for figures in lengths.values())
        yield f"| {name} | {' | '.join(cells)} | {mean:.2f} |"
    peers = [name for name in names if not name.startswith("edge-imdb")]
    if peers:
        fastest = {length: min(peers, key=lambda n, f=figures: f[n]["p50"]) for length, figures in lengths.items()}
        ratios = [lengths[length][name]["ratio"] for length, name in fastest.items()]
        cells = [
            f"{lengths[length][name]['ratio']:.2f} [{lengths[length][name]['ratio_low']:.2f}, "
            f"{lengths[length][name]['ratio_high']:.2f}]"
            for length, name in fastest.items()
        ]
        yield f"| fastest peer, times ours | {' | '.join(cells)} | {statistics.geometric_mean(ratios):.2f} |"
    yield f"| roofline | {' | '.join(f'{value:.2f}' for value in record['roofline_ms'].values())} | |"


def review_rows(report: dict[str, Any], figures: dict[str, Any]) -> Iterator[str]:
    yield "| | p50 | p95 | p99 | mean | times ours | accuracy | MiB | peak memory, MiB |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, row in figures.items():
        accuracy = f"{100 * row['accuracy']:.1f} %" if "accuracy" in row else ""
        interval = f"[{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]"
        yield (
            f"| {name} | {row['p50']:.2f} | {row['p95']:.2f} | {row['p99']:.2f} | {row['mean']:.2f} | "
            f"{row['ratio']:.2f} {interval} | {accuracy} | {report['mib'][name]:.1f} | "
            f"{report['memory_mib'][name]:.0f} |"
        )


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw the p50 of each contender by length, for the last number of threads. Needs matplotlib."""
    try:
        import matplotlib
    except ImportError:
        print(f"no picture: {path} needs matplotlib (pip install matplotlib)", file=sys.stderr)
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    threads, record = list(report["threads"].items())[-1]
    figure, axes = pyplot.subplots(figsize=(8, 5))
    for name in next(iter(record["lengths"].values())):
        values = [figures[name]["p50"] for figures in record["lengths"].values()]
        ours = name == OURS
        axes.plot(LENGTHS, values, marker="o", label=name, linewidth=3 if ours else 1, color="black" if ours else None)
    axes.plot(LENGTHS, list(record["roofline_ms"].values()), linestyle=":", color="grey", label="int8 roofline")
    axes.set(xscale="log", yscale="log", xlabel="tokens", ylabel="ms, median", xticks=LENGTHS, xticklabels=LENGTHS)
    axes.minorticks_off()
    axes.set_title(f"{report['model']['layers']} x {report['model']['width']}, batch 1, {threads} threads")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def with_bar(items: Iterable[Any], label: str) -> Iterator[Any]:
    with click.progressbar(list(items), label=label, file=sys.stderr, hidden=not sys.stderr.isatty()) as bar:
        yield from bar


if __name__ == "__main__":
    run_as_command(main)
