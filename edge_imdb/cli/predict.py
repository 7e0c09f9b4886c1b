"""predict: labels and calibrated scores for reviews."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import UsageError
from ..tasks.sentiment import TASK
from .common import ModelOptions, ReviewOptions, model_options, options_of
from .texts import as_json_line, file_options, open_rows, text_arguments

if TYPE_CHECKING:
    from ..tasks.sentiment.pipeline import Label, Sentiment


@click.command()
@text_arguments
@click.option("--top-k", type=click.IntRange(min=1), help="Number of labels to print for each review, best first.")
@file_options("reviews")
@click.option(
    "--json", "as_json", is_flag=True, help='Print one JSON object per review: {"row", "text", "label", "score"}.'
)
@options_of(ReviewOptions, "review_options")
@model_options
def predict(
    texts: tuple[str, ...],
    top_k: int | None,
    file: Path | None,
    column: str,
    delimiter: str | None,
    skip_blank: bool,
    as_json: bool,
    review_options: ReviewOptions,
    model_options: ModelOptions,
) -> None:
    """Label the sentiment of reviews.

    Prints one line per review, with its label and calibrated score, in the order given.

    With --json each object has the number of its row, counted from 1 (in a text file, the line), and the label of a
    skipped row is null. With --top-k each line has several labels with their scores, and each object has "labels".

    \b
    edge-imdb predict "great film"
    edge-imdb predict --file reviews.csv --column review --json
    cat reviews.txt | edge-imdb predict
    """
    rows = open_rows(texts, file, column, delimiter, skip_blank, 'edge-imdb predict "great film"')
    if top_k is not None and review_options.min_score:
        raise UsageError("--min-score is for one label a review, and --top-k asks for several: give only one of them.")
    sentiment: Sentiment = review_options.open(TASK.name, model_options)

    def label(text: str) -> list[Label]:
        return sentiment(text) if top_k is None else sentiment(text, top_k=top_k)

    for row, labels in rows.each(label, review_options.workers, "predict"):
        if as_json:
            if top_k is not None:
                found: dict[str, object] = {"labels": labels}
            else:
                found = dict(labels[0]) if labels else {"label": None, "score": None}
            line = as_json_line({"row": row.number, "text": row.text, **found})
        elif labels:
            line = "\t".join(f"{entry['label']}\t{entry['score']:.4f}" for entry in labels)
        else:
            continue
        # click flushes after every line, so a program that reads from the pipe gets the label at once.
        click.echo(line)
