"""evaluate: measure a bundle on a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import click

from ..data.datasets import DATA
from ..runtime.hub import go_offline_if_unreachable
from ..tasks import DEFAULT_TASK, TASKS
from ..tasks.evaluation import DataOptions
from .common import ModelOptions, ReviewOptions, import_extra, model_options, progress_bar, review_options, say


@click.command()
@click.argument("task", type=click.Choice(list(TASKS)), default=DEFAULT_TASK)
@click.option(
    "--data",
    default=DATA,
    show_default=True,
    help="Data set: Hub id, folder, or file: .csv, .tsv, .json, .jsonl, .parquet; each also as .gz or .zst.",
)
@click.option("--split", default="test", show_default=True, help="Split of --data to use; a file has only one.")
@click.option("--text-column", default="text", show_default=True, help="Column that holds the reviews.")
@click.option("--label-column", default="label", show_default=True, help="Column that holds the labels.")
@click.option("--delimiter", help="Delimiter of the .csv or .tsv in --data.  [default: comma for .csv, tab for .tsv]")
@click.option("--limit", type=click.IntRange(min=1), help="Use at most this many reviews, drawn with a fixed seed.")
@click.option(
    "--rows",
    metavar="FILE",
    help="Write every text with its label, prediction, score and loss to a .csv, .tsv, .jsonl or .parquet file, the "
    "highest loss first. Wrong labels are near the top.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@review_options
@model_options
def evaluate(
    task: str,
    data: str,
    split: str,
    text_column: str,
    label_column: str,
    delimiter: str | None,
    limit: int | None,
    rows: str | None,
    as_json: bool,
    review_options: ReviewOptions,
    model_options: ModelOptions,
) -> None:
    """Measure a bundle on a data set.

    For sentiment it prints accuracy, F1, log loss, calibration error and reviews per second; precision, recall and F1
    of each label, and how often each label was taken for each other one; and, as --min-score goes up, how many reviews
    still get a label and how many of these are right. For fill-mask, which needs no labels, it masks whole words with a
    fixed seed and prints perplexity, top-1 and top-5 accuracy, and chunks of 256 tokens per second.

    \b
    edge-imdb evaluate sentiment --data stanfordnlp/imdb --split test
    edge-imdb evaluate fill-mask --data stanfordnlp/imdb --split test
    edge-imdb evaluate sentiment --data reviews.csv --model models/sentiment
    edge-imdb evaluate sentiment --data reviews.csv --rows worst-first.csv
    """
    chosen = DataOptions(data, split, text_column, label_column, delimiter, limit, rows)
    if rows is not None:
        import_extra("edge_imdb.scoring.rows", "score").check_rows(rows, data)
    go_offline_if_unreachable(data)
    model = review_options.open(task, model_options)
    figures, lines, table = TASKS[task].evaluate(model, chosen, review_options.workers, _progress)
    if rows is not None:
        import_extra("edge_imdb.scoring.rows", "score").write_rows(rows, table)
        say(f"wrote {rows}")
    click.echo(json.dumps(figures) if as_json else "\n".join(lines))


def _progress(items: Sequence[Any]) -> Any:
    return progress_bar(items, len(items), "evaluate")
