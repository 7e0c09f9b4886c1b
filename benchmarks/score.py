"""What edge-imdb score costs: python benchmarks/score.py rate --json benchmarks/results/score.json

    rate     reviews a second of edge_imdb.score against Sentiment.stream, in turns A/B/A/B/A, and of processes
    memory   peak memory at 10,000 and at 1,000,000 rows, with labels that are made up, since only the rest is looked at
    resume   rows a second that are passed over for each kind of input, when only the last part is missing
    ray      reviews a second on two actors of a local Ray cluster against edge_imdb.score with two workers, warm
    killed   all rows of --data, with one kill -9 in the middle, after which the same command goes on

Each adds its figures to the JSON file. Reviews are drawn with a fixed seed; without --data they are made of words.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from command import run_as_command
from machine import describe, peak_mib

WORDS = [
    "the",
    "a",
    "film",
    "plot",
    "story",
    "cast",
    "score",
    "was",
    "is",
    "great",
    "awful",
    "dull",
    "moving",
    "funny",
    "brilliant",
    "boring",
    "and",
    "but",
    "it",
    "of",
    "in",
]
ROUNDS = 2


def made_up(count: int, words: int = 200) -> Iterator[str]:
    draw = random.Random(0)
    for _ in range(count):
        yield " ".join(draw.choices(WORDS, k=words))


def reviews_of(options: argparse.Namespace) -> list[str]:
    if options.data is None:
        return list(made_up(options.reviews))
    from edge_imdb.data.tables import iter_texts

    texts = [text for _, text in iter_texts(options.data)]
    return random.Random(0).sample(texts, min(options.reviews, len(texts)))


def write(path: Path, texts: Iterator[str] | list[str]) -> Path:
    """One file of the column ``text``, of the kind of its name, a thousand rows in memory at a time."""
    import csv

    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([("text", pyarrow.string())])
    if path.suffix == ".parquet":
        with parquet.ParquetWriter(path, schema) as writer:
            batch: list[str] = []
            for text in texts:
                batch.append(text)
                if len(batch) == 1000:
                    writer.write_table(pyarrow.table({"text": batch}, schema))
                    batch.clear()
            if batch:
                writer.write_table(pyarrow.table({"text": batch}, schema))
    else:
        import gzip

        with gzip.open(path, "wt") if path.suffix == ".gz" else path.open("w", newline="") as file:
            if ".csv" in path.name:
                rows = csv.writer(file)
                rows.writerow(["text"])
                rows.writerows([text] for text in texts)
            elif ".jsonl" in path.name:
                file.writelines(json.dumps({"text": text}) + "\n" for text in texts)
            else:
                file.writelines(text + "\n" for text in texts)
    return path


def in_turns(runs: dict[str, Callable[[], float]], rounds: int) -> dict[str, Any]:
    """Rows a second of each, run in turns so that what else goes on meets all; the first once more at the end."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    first = next(iter(runs))
    for _ in range(rounds):
        for name, run in runs.items():
            found[name].append(run())
            print(f"{name}: {found[name][-1]:.1f} rows a second", file=sys.stderr)
    found[first].append(runs[first]())
    return {name: {"rates": rates, "median": statistics.median(rates)} for name, rates in found.items()}


_model: Any = None


def _start() -> None:
    global _model
    from edge_imdb import Sentiment

    _model = Sentiment(threads=1)


def _one(text: str) -> str:
    return str(_model(text)[0]["label"])


def rate(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import edge_imdb

    texts = reviews_of(options)
    source = write(folder / "in.parquet", texts)
    sentiment = edge_imdb.Sentiment(threads=1)
    pool = ProcessPoolExecutor(options.workers, initializer=_start)
    list(pool.map(_one, texts[:16]))
    numbers = iter(range(1000))

    def stream() -> float:
        start = time.perf_counter()
        for _ in sentiment.stream(texts, workers=options.workers):
            pass
        return len(texts) / (time.perf_counter() - start)

    def score() -> float:
        """With all it does: loading the model, reading, writing, fsync."""
        start = time.perf_counter()
        edge_imdb.score(source, folder / f"out-{next(numbers)}", workers=options.workers)
        return len(texts) / (time.perf_counter() - start)

    def processes() -> float:
        start = time.perf_counter()
        for _ in pool.map(_one, texts, chunksize=16):
            pass
        return len(texts) / (time.perf_counter() - start)

    runs: dict[str, Callable[[], float]] = {"stream": stream, "score": score}
    if options.processes:
        runs["processes"] = processes
    found = in_turns(runs, options.rounds)
    pool.shutdown()
    found["reviews"], found["workers"] = len(texts), options.workers
    found["ratio"] = found["score"]["median"] / found["stream"]["median"]
    return found


FAKED = """
import sys, time
sys.path.insert(0, sys.argv[3])
from machine import peak_mib
from edge_imdb.scoring import job
from edge_imdb.scoring.labels import Labeller, Outcome
class Faked(Labeller):
    def __call__(self, text):
        return Outcome(("pos", 0.5), None) if text is not None else Outcome(None, None)
job.Labeller = Faked
start = time.perf_counter()
summary = job.score(sys.argv[1], sys.argv[2], workers=2)
print(peak_mib(), summary.rows / (time.perf_counter() - start))
"""


def faked(source: Path, output: Path) -> tuple[float, float]:
    """Peak memory in MiB and rows a second of a job whose labels are made up, in a process of its own."""
    command = [sys.executable, "-c", FAKED, str(source), str(output), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak, rows = done.stdout.split()
    return float(peak), float(rows)


def memory(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in options.kinds.split(","):
        peaks = {}
        for rows in (10_000, options.rows):
            source = write(folder / f"in.{kind}", made_up(rows))
            peak, per_second = faked(source, folder / f"out-{rows}-{kind}")
            peaks[rows] = peak
            print(f"{kind}, {rows:,} rows: {peak:.0f} MiB, {per_second:.0f} rows a second", file=sys.stderr)
            found[f"{kind} {rows}"] = {"mib": peak, "rows_per_second": per_second}
            source.unlink()
        found[f"{kind} ratio"] = peaks[options.rows] / peaks[10_000]
    return found


def resume(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in ("parquet", "csv", "jsonl", "txt", "csv.gz", "jsonl.gz"):
        source = write(folder / f"in.{kind}", made_up(options.rows))
        output = folder / f"out-{kind.replace('.', '-')}"
        faked(source, output)
        last = max(output.glob("part-*"))
        found[kind] = {}
        # With nothing missing the inputs are hashed and the parts counted; with the last part missing all rows before
        # it are passed over, too.
        for name, missing in (("nothing missing", False), ("last part missing", True)):
            if missing:
                last.unlink()
            start = time.perf_counter()
            faked(source, output)
            found[kind][name] = time.perf_counter() - start
        found[kind]["rows"] = options.rows
        print(kind, found[kind], file=sys.stderr)
        source.unlink()
    return found


def on_ray(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import ray

    import edge_imdb

    ray.init(num_cpus=options.workers + 1, include_dashboard=False, logging_level="error")
    source = write(folder / "in.parquet", reviews_of(options))
    numbers = iter(range(1000))

    def run(address: str | None) -> float:
        """Rows a second from the first row to the last, so without loading and without the start of actors: warm."""
        seen: list[tuple[float, int]] = []

        def report(record: dict[str, Any]) -> None:
            if record["phase"] in ("score", "done"):
                seen.append((time.perf_counter(), record["rows"]))

        output = folder / f"out-{next(numbers)}"
        edge_imdb.score(source, output, workers=options.workers, ray=address, report=report, part_rows=250)
        begun = next(index for index, (_, rows) in enumerate(seen) if rows > 0)
        (start, first), (end, last) = seen[begun], seen[-1]
        return (last - first) / (end - start)

    found = in_turns({"local": lambda: run(None), "ray": lambda: run("local")}, options.rounds)
    ray.shutdown()
    found["reviews"], found["actors"] = options.reviews, options.workers
    found["ratio"] = found["ray"]["median"] / found["local"]["median"]
    return found


def killed(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The command as a person gives it, killed once half of the rows are done, and given again."""
    if options.data is None:
        raise SystemExit("killed needs --data")
    output = folder / "labelled"
    arguments = ["score", str(options.data), "--output", str(output), "--workers", str(options.workers)]

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "edge_imdb", *arguments, "--json-progress"]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    begun = time.perf_counter()
    with start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            last = json.loads(line)
            if last["phase"] == "score" and last["rows"] >= last["total"] / 2:
                break
        process.kill()
    first = time.perf_counter() - begun
    parts = len(list(output.glob("part-*")))
    with start() as process:
        assert process.stdout is not None
        summary = [json.loads(line) for line in process.stdout][-1]
    if process.returncode not in (0, 3) or not summary.get("done"):
        raise SystemExit(f"the second run ended with {process.returncode}")
    return {
        "rows": summary["rows"],
        "killed_after": last["rows"],
        "seconds_to_the_kill": first,
        "parts_at_kill": parts,
        "labelled_again": summary["labelled"],
        # By the last line of progress before the kill.
        "labelled_twice": last["rows"] - (summary["rows"] - summary["labelled"]),
        "seconds_after_it": summary["seconds"],
        "labels": summary["labels"],
        "errors": summary["errors"],
    }


PARTS = {"rate": rate, "memory": memory, "resume": resume, "ray": on_ray, "killed": killed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS])
    parser.add_argument("--data", type=Path, help="a table of reviews with the column text")
    parser.add_argument("--reviews", type=int, default=5000, help="rate, ray: so many of them")
    parser.add_argument("--rows", type=int, default=1_000_000, help="memory, resume: so many rows")
    parser.add_argument("--kinds", default="parquet,csv", help="memory: kinds of input, separated by commas")
    parser.add_argument("--workers", type=int, default=2, help="texts at a time")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="turns that each takes")
    parser.add_argument("--processes", action="store_true", help="rate: a pool of processes too")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = PARTS[options.part](options, Path(folder))
    print(json.dumps(figures, indent=1))
    if options.json:
        known = {}
        with contextlib.suppress(FileNotFoundError):
            known = json.loads(options.json.read_text(encoding="utf-8"))
        known.update({"machine": describe(), options.part: figures})
        options.json.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    print(f"peak memory of this benchmark: {peak_mib():.0f} MiB", file=sys.stderr)


if __name__ == "__main__":
    run_as_command(main)
