"""What each part of the embedded models gives.

    python benchmarks/parts.py --run runs/sentiment --previous "oldest=OLDEST_BUNDLE" --previous "older=OLD_BUNDLE"
    python benchmarks/parts.py --task fill-mask --run runs/fill-mask --previous OLD_BUNDLE

Sentiment: the validation texts of a run, of each of its data sets apart, and the embedded bundle that came of it, with
and without token dropping and early exit, beside older bundles. Nothing here reads a test split. The times are of
reviews of the run's first data set, one at a time; the contenders take turns at each review, so that drift affects all
of them.

Fill-mask: the older bundle and the embedded one on the validation texts of a run, in chunks that begin anywhere, as all
other figures have them, and in chunks that begin with a sentence, as the texts do that people type.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from command import run_as_command
from machine import describe

from edge_imdb import FillMask, Sentiment
from edge_imdb.data.corpus import load_corpus, load_texts
from edge_imdb.data.datasets import Reviews
from edge_imdb.data.splits import sample
from edge_imdb.export.pipeline import read_run
from edge_imdb.runtime.bundle import EMBEDDED, open_bundle
from edge_imdb.tasks.fill_mask.figures import evaluate_fill_mask
from edge_imdb.tasks.sentiment.figures import evaluate_sentiment
from edge_imdb.tasks.sentiment.graphs import keep_all_tokens
from edge_imdb.train.runs import public_name


def without_dropping(model: Sentiment) -> Sentiment:
    model._model.extra = keep_all_tokens(model._model)
    return model


def without_early_exit(model: Sentiment) -> Sentiment:
    model._first = None
    return model


def as_it_is(model: Sentiment) -> Sentiment:
    return model


Change = Callable[[Sentiment], Sentiment]
# Opens a bundle with a number of threads.
Opens = Callable[[int], Sentiment]
# What is put behind an older bundle's name, or the name: whether it is opened with exact, and what is turned off.
OF_OLDER: dict[str, tuple[bool, Change]] = {", --exact": (True, as_it_is), "": (False, as_it_is)}
OF_EMBEDDED: dict[str, tuple[bool, Change]] = {
    "--exact": (True, as_it_is),
    "early exit alone": (False, without_dropping),
    "token dropping alone": (False, without_early_exit),
    "as it runs": (False, as_it_is),
}
# These repeat others if the embedded bundle has no early exit.
WITH_EARLY_EXIT = ("early exit alone", "token dropping alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=("sentiment", "fill-mask"), default="sentiment", help="which model")
    parser.add_argument("--run", type=Path, required=True, help="the finished run of the embedded bundle")
    parser.add_argument(
        "--previous",
        type=named,
        action="append",
        required=True,
        metavar="[NAME=]FOLDER",
        help="an older bundle of the task; several, the oldest first, need names",
    )
    parser.add_argument("--reviews", type=int, default=300, help="sentiment: reviews to time")
    parser.add_argument("--threads", default="1,2", help="sentiment: threads to time, separated by commas")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    previous = dict(options.previous)
    if len(previous) < len(options.previous):
        parser.error("two --previous have the same name: give NAME=FOLDER for each")
    hyperparameters = read_run(options.run, options.task)[1]
    if options.task == "sentiment":
        report = of_sentiment(options, contenders(previous), hyperparameters)
        lines = table(report)
    else:
        report = of_fill_mask(previous, hyperparameters)
        lines = fill_mask_table(report)
    print("\n".join(lines))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def named(given: str) -> tuple[str, Path]:
    name, equals, folder = given.partition("=")
    return (name, Path(folder)) if equals else ("previous bundle", Path(given))


def of_sentiment(
    options: argparse.Namespace, found: dict[str, Opens], hyperparameters: dict[str, Any]
) -> dict[str, Any]:
    corpus = load_corpus(hyperparameters)
    groups = [str(public_name(corpus.sources[origin])) for origin in corpus.origins]
    first = [text for text, group in zip(corpus.validation.texts, groups, strict=True) if group == groups[0]]
    texts = [first[i] for i in sample(first, options.reviews, seed=0)]
    return {
        "machine": describe(),
        "reviews_timed": len(texts),
        "quality": quality(found, corpus.validation, groups),
        "mean_ms": {threads: times(found, texts, int(threads)) for threads in options.threads.split(",")},
    }


def of_fill_mask(previous: dict[str, Path], hyperparameters: dict[str, Any]) -> dict[str, Any]:
    texts = load_texts(hyperparameters).validation
    bundles = {**previous, "embedded": EMBEDDED / "fill-mask"}
    found: dict[str, dict[str, Any]] = {}
    for name, folder in bundles.items():
        model = FillMask(folder, threads=2)
        found[name] = {
            kind: evaluate_fill_mask(model, texts, sentence_starts=starts)
            for kind, starts in (("anywhere", False), ("at a sentence", True))
        }
    return {"machine": describe(), "quality": found}


def contenders(previous: dict[str, Path]) -> dict[str, Opens]:
    """Those that differ from each other, by their names."""

    def of(folder: Path, exact: bool, change: Change) -> Opens:
        return lambda threads: change(Sentiment(folder, exact=exact, threads=threads))

    embedded = EMBEDDED / "sentiment"
    exits = open_bundle(embedded, "sentiment").early_exit is not None
    return {
        **{name + kind: of(folder, *how) for name, folder in previous.items() for kind, how in OF_OLDER.items()},
        **{name: of(embedded, *how) for name, how in OF_EMBEDDED.items() if exits or name not in WITH_EARLY_EXIT},
    }


def quality(found: dict[str, Opens], reviews: Reviews, groups: list[str]) -> dict[str, Any]:
    """The figures of each contender for each data set."""
    measured = {}
    for name, opened in found.items():
        figures = evaluate_sentiment(opened(1), reviews, workers=2, groups=groups)
        measured[name] = figures.get("groups") or {groups[0]: figures}
    return measured


def times(found: dict[str, Opens], texts: list[str], threads: int) -> dict[str, float]:
    """Mean milliseconds per review of each contender."""
    models = {name: opened(threads) for name, opened in found.items()}
    measured: dict[str, list[float]] = {name: [] for name in models}
    names = list(models)
    for model in models.values():
        model(texts[0])
    for turn, text in enumerate(texts):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            start = time.perf_counter()
            models[name](text)
            measured[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.fmean(values) for name, values in measured.items()}


def table(report: dict[str, Any]) -> Iterator[str]:
    """Accuracy (and calibration error) by data set, and the time of a review, as a Markdown table."""
    quality, times = report["quality"], report["mean_ms"]
    groups = {name: figures["reviews"] for name, figures in next(iter(quality.values())).items()}
    threads = [f"ms, {count} thread{'s' if count != '1' else ''}" for count in times]
    yield f"| | {' | '.join(f'{name}, {reviews:,}' for name, reviews in groups.items())} | {' | '.join(threads)} |"
    yield "|---" * (1 + len(groups) + len(threads)) + "|"
    for contender, found in quality.items():
        cells = [
            f"{100 * found[name]['accuracy']:.2f} % ({100 * found[name]['calibration_error']:.2f} %)" for name in groups
        ]
        cells += [f"{by_name[contender]:.1f}" for by_name in times.values()]
        yield f"| {contender} | {' | '.join(cells)} |"


def fill_mask_table(report: dict[str, Any]) -> Iterator[str]:
    """Perplexity (and top-5 accuracy) by where the chunks begin, as a Markdown table."""
    found = report["quality"]
    kinds = next(iter(found.values()))
    heads = (f"chunks begin {kind}, {figures['tokens']:,} masked tokens" for kind, figures in kinds.items())
    yield f"| | {' | '.join(heads)} |"
    yield "|---" * (1 + len(kinds)) + "|"
    for name, by_kind in found.items():
        cells = (f"{figures['perplexity']:.2f} ({100 * figures['top5']:.2f} %)" for figures in by_kind.values())
        yield f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    run_as_command(main)
