"""fill: words for [MASK]."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..tasks.fill_mask import TASK
from .common import ModelOptions, model_options
from .texts import as_json_line, file_options, open_rows, text_arguments

if TYPE_CHECKING:
    from ..tasks.fill_mask.pipeline import FillMask


@click.command()
@text_arguments
@click.option(
    "--top-k",
    type=click.IntRange(min=1),
    default=5,
    show_default=True,
    help="Number of words to suggest for each mask.",
)
@click.option("--targets", help="Choose only from these words, separated by commas.")
@click.option(
    "--joint",
    is_flag=True,
    help="Fill several masks together, so that the words fit each other, and print whole sentences.",
)
@click.option(
    "--beams",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Number of candidates that --joint keeps at each mask.",
)
@file_options("texts")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Number of texts to fill at the same time, each on one thread. One per core gives the highest throughput.",
)
@click.option("--json", "as_json", is_flag=True, help='Print one JSON object per text: {"row", "text", "fills"}.')
@model_options
def fill(
    texts: tuple[str, ...],
    top_k: int,
    targets: str | None,
    joint: bool,
    beams: int,
    file: Path | None,
    column: str,
    delimiter: str | None,
    skip_blank: bool,
    workers: int,
    as_json: bool,
    model_options: ModelOptions,
) -> None:
    """Fill in masked words.

    Prints one line per suggestion, with the sentence and its score, best first.

    If a text has several masks, each line has the number of the mask, the word and its score. With --joint each line is
    a whole sentence, and its score is the pseudo-log-likelihood of the words filled in, in nats.

    \b
    edge-imdb fill "This is a great [MASK]!"
    edge-imdb fill "A [MASK] plot." --targets thin,clever
    edge-imdb fill "[MASK] [MASK] gave the performance of his life." --joint
    """
    rows = open_rows(texts, file, column, delimiter, skip_blank, 'edge-imdb fill "This is a great [MASK]!"')
    words = None if targets is None else [word.strip() for word in targets.split(",") if word.strip()]
    if workers > 1 and model_options.threads is None:
        model_options = dataclasses.replace(model_options, threads=1)
    fill_mask: FillMask = model_options.open(TASK.name)
    if words is not None:
        found_targets = fill_mask.target_ids(words)
        for note in found_targets.notes:
            click.echo(note, err=True)
        # The tokens themselves, so that the pipeline doesn't warn once more.
        words = fill_mask.tokenizer.convert_ids_to_tokens(found_targets.ids)

    def fills(text: str) -> list[Any]:
        found: list[Any] = fill_mask(text, top_k=top_k, targets=words, joint=joint, beams=beams)
        return found

    for row, result in rows.each(fills, workers, "fill"):
        if as_json:
            click.echo(as_json_line({"row": row.number, "text": row.text, "fills": result}))
        elif result is None:
            continue
        elif isinstance(result[0], dict):
            for entry in result:
                click.echo(f"{entry['sequence']}\t{entry['score']:.4f}")
        else:
            for number, entries in enumerate(result, 1):
                for entry in entries:
                    click.echo(f"{number}\t{entry['token_str']}\t{entry['score']:.4f}")
