"""evaluate: measure a bundle on a data set."""

from __future__ import annotations

import json
from collections.abc import Iterator

import click

from ..data.datasets import DATA
from ..errors import UsageError
from ..runtime.hub import go_offline_if_unreachable
from ..tasks import TASKS
from .common import ModelOptions, ReviewOptions, model_options, progress_bar, review_options


@click.command()
@click.argument("task", type=click.Choice(list(TASKS)), default="sentiment")
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
    as_json: bool,
    review_options: ReviewOptions,
    model_options: ModelOptions,
) -> None:
    """Measure a bundle on a data set.

    For sentiment it prints accuracy, F1, log loss, calibration error and reviews per second; and, as --min-score goes
    up, how many reviews still get a label and how many of these are right. For fill-mask, which needs
    no labels, it masks whole words with a fixed seed and prints perplexity, top-1 and top-5 accuracy, and chunks of 256
    tokens per second.

    \b
    edge-imdb evaluate sentiment --data stanfordnlp/imdb --split test
    edge-imdb evaluate fill-mask --data stanfordnlp/imdb --split test
    edge-imdb evaluate sentiment --data reviews.csv --model models/sentiment
    """
    go_offline_if_unreachable(data)
    if task == "fill-mask":
        if review_options != ReviewOptions(exact=False, sliding_windows=False, workers=1):
            raise UsageError("--exact, --sliding-windows and --workers are for sentiment: leave them out.")
        _evaluate_fill_mask(data, split, text_column, delimiter, limit, as_json, model_options)
        return
    from ..data.datasets import read_reviews
    from ..data.splits import sample
    from ..tasks.figures import evaluate_sentiment

    sentiment = review_options.sentiment(model_options)
    reviews = read_reviews(data, split, text_column, label_column, names=sentiment.labels, delimiter=delimiter)
    if limit is not None:
        reviews = reviews.take(sample(reviews.texts, limit, seed=0))
    count = len(reviews.texts)
    with progress_bar(reviews.texts, count, "evaluate") as bar:
        figures = evaluate_sentiment(sentiment, reviews, bar, review_options.workers)
    if as_json:
        click.echo(json.dumps({"precision": sentiment.precision, "provider": sentiment.provider, **figures}))
        return
    click.echo(f"bundle              {sentiment.bundle.path.name} ({sentiment.reason}), {sentiment.precision}")
    click.echo(f"reviews             {figures['reviews']}")
    click.echo(f"accuracy            {100 * figures['accuracy']:.2f} %")
    click.echo(f"F1 (macro)          {100 * figures['f1']:.2f} %")
    click.echo(f"log loss            {figures['log_loss']:.4f} nats")
    click.echo(f"calibration error   {100 * figures['calibration_error']:.2f} %")
    click.echo(f"reviews per second  {figures['reviews_per_second']:.1f}")
    click.echo("score at least      " + "  ".join(f"{row['min_score']:7.2f}" for row in figures["coverage"]))
    click.echo("  share of reviews  " + "  ".join(f"{100 * row['coverage']:5.1f} %" for row in figures["coverage"]))
    click.echo("  accuracy on them  " + "  ".join(f"{100 * row['accuracy']:5.1f} %" for row in figures["coverage"]))


def _evaluate_fill_mask(
    data: str,
    split: str,
    text_column: str,
    delimiter: str | None,
    limit: int | None,
    as_json: bool,
    model_options: ModelOptions,
) -> None:
    from ..data.datasets import read_texts
    from ..data.splits import sample
    from ..tasks.figures import evaluate_fill_mask

    fill_mask = model_options.fill_mask()
    texts = read_texts(data, split, text_column, delimiter)
    if limit is not None:
        texts = [texts[i] for i in sample(texts, limit, seed=0)]

    def progress(rows: range) -> Iterator[int]:
        with progress_bar(rows, len(rows), "evaluate") as bar:
            yield from bar

    figures = evaluate_fill_mask(fill_mask, texts, progress)
    if as_json:
        click.echo(json.dumps({"precision": fill_mask.precision, "provider": fill_mask.provider, **figures}))
        return
    click.echo(f"bundle             {fill_mask.bundle.path.name} ({fill_mask.reason}), {fill_mask.precision}")
    click.echo(f"texts              {len(texts)}, in {figures['chunks']} chunks")
    click.echo(f"masked tokens      {figures['tokens']}")
    click.echo(f"perplexity         {figures['perplexity']:.2f}")
    click.echo(f"top-1 accuracy     {100 * figures['top1']:.2f} %")
    click.echo(f"top-5 accuracy     {100 * figures['top5']:.2f} %")
    click.echo(f"chunks per second  {figures['chunks_per_second']:.1f}")
