"""evaluate: measure a bundle on a data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from ..data.datasets import DATA
from ..errors import UsageError
from ..runtime.hub import go_offline_if_unreachable
from ..tasks import TASKS
from .common import ModelOptions, ReviewOptions, import_extra, model_options, progress_bar, review_options, say

# A confusion matrix of more labels doesn't fit on a screen: then only the most frequent confusions are printed.
_MATRIX = 20
_CONFUSIONS = 10
# Widest label name, and widest matrix that has the names of the labels above its columns, in characters.
_NAME = 24
_WIDTH = 100


@dataclass(frozen=True)
class DataOptions:
    """Which texts to measure on, and where to write them sorted by their loss."""

    data: str
    split: str
    text_column: str
    label_column: str
    delimiter: str | None
    limit: int | None
    rows: str | None


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
    measure = {"sentiment": _evaluate_sentiment, "fill-mask": _evaluate_fill_mask}[task]
    figures, lines, table = measure(chosen, review_options, model_options)
    if rows is not None:
        import_extra("edge_imdb.scoring.rows", "score").write_rows(rows, table)
        say(f"wrote {rows}")
    click.echo(json.dumps(figures) if as_json else "\n".join(lines))


Measured = tuple[dict[str, Any], list[str], Mapping[str, Sequence[Any]]]


def _evaluate_sentiment(chosen: DataOptions, review_options: ReviewOptions, model_options: ModelOptions) -> Measured:
    import numpy as np

    from ..data.datasets import read_reviews
    from ..data.metrics import confusion_matrix, label_figures
    from ..data.splits import sample
    from ..tasks.sentiment.figures import classification_figures, probabilities_of, worst_first

    sentiment = review_options.open("sentiment", model_options)
    reviews = read_reviews(
        chosen.data,
        chosen.split,
        chosen.text_column,
        chosen.label_column,
        names=sentiment.labels,
        delimiter=chosen.delimiter,
    )
    kept = range(len(reviews.texts))
    if chosen.limit is not None:
        kept = sample(reviews.texts, chosen.limit, seed=0)  # type: ignore[assignment]
        reviews = reviews.take(kept)
    with progress_bar(reviews.texts, len(reviews.texts), "evaluate") as bar:
        probabilities, seconds = probabilities_of(sentiment, bar, review_options.workers)
    figures = classification_figures(probabilities, reviews.labels, seconds)
    confusion = confusion_matrix(probabilities, np.array(reviews.labels))
    labels = label_figures(confusion, reviews.names)
    coverage = figures["coverage"]
    lines = [
        f"bundle              {sentiment.bundle.path.name} ({sentiment.reason}), {sentiment.precision}",
        f"reviews             {figures['reviews']}",
        f"accuracy            {100 * figures['accuracy']:.2f} %",
        f"F1 (macro)          {100 * figures['f1']:.2f} %",
        f"log loss            {figures['log_loss']:.4f} nats",
        f"calibration error   {100 * figures['calibration_error']:.2f} %",
        f"reviews per second  {figures['reviews_per_second']:.1f}",
        "score at least      " + "  ".join(f"{row['min_score']:7.2f}" for row in coverage),
        "  share of reviews  " + "  ".join(_percent(row["coverage"], 5) for row in coverage),
        "  accuracy on them  " + "  ".join(_percent(row["accuracy"], 5) for row in coverage),
        "",
        *label_table(labels),
        "",
        *confusion_table(confusion.tolist(), reviews.names),
    ]
    missing = [name for name, figure in labels.items() if not figure["support"]]
    if missing:
        lines += ["", f"No review has the label {', '.join(missing)}: the figures don't cover it."]
    record = {
        "precision": sentiment.precision,
        "provider": sentiment.provider,
        **figures,
        "labels": labels,
        "confusion": {"labels": reviews.names, "counts": confusion.tolist()},
    }
    return record, lines, worst_first(probabilities, reviews, [index + 1 for index in kept])


def _percent(share: float | None, width: int) -> str:
    """A share in percent, right-aligned to ``width`` and its unit; a dash where there is none."""
    return f"{'–':>{width + 2}}" if share is None else f"{100 * share:{width}.1f} %"


def label_table(labels: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The lines of a table with precision, recall, F1 and support of each label, from ``label_figures``.

    >>> half = {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1, "predicted": 2}
    >>> print("\\n".join(label_table({"neg": half})))
    label  precision   recall       F1  support
    neg       50.0 %  100.0 %   66.7 %        1
    """
    width = max(len("label"), *(len(_short(name)) for name in labels))
    lines = [f"{'label':{width}}  precision   recall       F1  support"]
    for name, figures in labels.items():
        precision, recall, f1 = (_percent(figures[key], 5) for key in ("precision", "recall", "f1"))
        lines.append(f"{_short(name):{width}}  {precision:>9}  {recall:>7}  {f1:>7}  {figures['support']:7}")
    return lines


def confusion_table(counts: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    """The lines of a confusion matrix; of more than 20 labels only the most frequent confusions.

    ``counts``, *shape:* ``(labels, labels)``, has the rows of each label, and in each row the count of each prediction.

    >>> print("\\n".join(confusion_table([[5, 1], [0, 6]], ["neg", "pos"])))
    label   predicted neg  pos
    neg                 5    1
    pos                 0    6
    """
    if len(names) > _MATRIX:
        pairs = [
            (count, names[i], names[j])
            for i, row in enumerate(counts)
            for j, count in enumerate(row)
            if i != j and count
        ]
        pairs.sort(key=lambda pair: -pair[0])
        title = f"most frequent confusions of {len(names)} labels (--json has the whole matrix)"
        return [
            title,
            *(
                f"{count:7}  {_short(label)} predicted as {_short(other)}"
                for count, label, other in pairs[:_CONFUSIONS]
            ),
        ]
    shown = [_short(name) for name in names]
    digits = max(len(str(count)) for row in counts for count in row)
    rows, columns = shown, shown
    if len(names) * (max(digits, *map(len, shown)) + 2) + max(map(len, shown)) > _WIDTH:
        # The names are too wide for the columns, so the labels are numbered.
        columns = [str(number) for number in range(1, len(names) + 1)]
        rows = [f"{number:>{len(str(len(names)))}} {name}" for number, name in zip(columns, shown, strict=True)]
    first = max(len("label"), *map(len, rows))
    width = max(digits, *map(len, columns))
    lead = len("predicted ")
    heading = "  ".join(f"{name:>{width}}" for name in columns)
    lines = [f"{'label':{first}}   predicted {heading}"]
    for name, row in zip(rows, counts, strict=True):
        lines.append(f"{name:{first}}   {'':{lead}}" + "  ".join(f"{count:{width}}" for count in row))
    return lines


def _short(name: str) -> str:
    """A label's name on one line, of at most 24 characters."""
    name = "".join(character if character.isprintable() else " " for character in name)
    return name if len(name) <= _NAME else f"{name[: _NAME - 1]}…"


def _evaluate_fill_mask(chosen: DataOptions, review_options: ReviewOptions, model_options: ModelOptions) -> Measured:
    if review_options != ReviewOptions():
        raise UsageError("--exact, --sliding-windows and --workers are for sentiment: leave them out.")
    from ..data.datasets import read_texts
    from ..data.splits import sample
    from ..tasks.fill_mask.figures import evaluate_fill_mask

    fill_mask = model_options.open("fill-mask")
    texts = read_texts(chosen.data, chosen.split, chosen.text_column, chosen.delimiter)
    if chosen.limit is not None:
        texts = [texts[i] for i in sample(texts, chosen.limit, seed=0)]

    def progress(rows: Iterable[int]) -> Iterator[int]:
        numbers = list(rows)
        with progress_bar(numbers, len(numbers), "evaluate") as bar:
            yield from bar

    table: dict[str, list[Any]] | None = None if chosen.rows is None else {}
    figures = evaluate_fill_mask(fill_mask, texts, progress, rows=table)
    lines = [
        f"bundle             {fill_mask.bundle.path.name} ({fill_mask.reason}), {fill_mask.precision}",
        f"texts              {len(texts)}, in {figures['chunks']} chunks",
        f"masked tokens      {figures['tokens']}",
        f"perplexity         {figures['perplexity']:.2f}",
        f"top-1 accuracy     {100 * figures['top1']:.2f} %",
        f"top-5 accuracy     {100 * figures['top5']:.2f} %",
        f"chunks per second  {figures['chunks_per_second']:.1f}",
    ]
    return {"precision": fill_mask.precision, "provider": fill_mask.provider, **figures}, lines, table or {}
