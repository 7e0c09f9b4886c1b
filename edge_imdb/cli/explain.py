"""explain: which words of a review decided its label."""

from __future__ import annotations

import html
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import OutputError
from ..tasks.sentiment import TASK
from ..tasks.sentiment.options import ReviewOptions
from .common import ModelOptions, model_options, options_of
from .texts import as_json_line, file_options, open_rows, text_arguments

if TYPE_CHECKING:
    from ..tasks.sentiment.pipeline import Sentiment

# Weights, in log-odds, at which the colour is strongest and below which there is none.
_STRONGEST, _WEAKEST = 1.0, 0.05
# Blue supports the label, orange opposes it. Colour-blind people can tell these two apart.
_FOR, _AGAINST = (153, 111, 69, 27), (223, 216, 209, 166)
_LISTED = 10


@click.command()
@text_arguments
@file_options("reviews")
@options_of(ReviewOptions, "review_options", leave_out=("min_score",))
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON, one review per line.")
@click.option("--html", "page", type=click.Path(path_type=Path), help="Write the explanations to this HTML file.")
@model_options
def explain(
    texts: tuple[str, ...],
    file: Path | None,
    column: str,
    delimiter: str | None,
    skip_blank: bool,
    review_options: ReviewOptions,
    as_json: bool,
    page: Path | None,
    model_options: ModelOptions,
) -> None:
    """Show which words of a review decided its label.

    Prints the label and its score, the review (coloured in a terminal) and the words that counted most. A word's weight
    is how much it moves the log-odds of the named label. Parts that the model did not read are in brackets.

    \b
    edge-imdb explain "The plot is thin but the leads are charming."
    edge-imdb explain --html page.html --file reviews.csv
    """
    example = 'edge-imdb explain "The plot is thin but the leads are charming."'
    rows = open_rows(texts, file, column, delimiter, skip_blank, example)
    sentiment: Sentiment = model_options.open(TASK.name, **vars(review_options))
    explained = []
    for row, found in rows.each(sentiment.explain, 1, "explain"):
        if as_json:
            click.echo(as_json_line({"row": row.number, "text": row.text, **(found or {"label": None})}))
        if found is None:
            continue
        if page is not None:
            explained.append((row.text, found))
        elif not as_json:
            click.echo(_lines(row.text, found, sys.stdout.isatty()))
    if page is not None:
        try:
            page.write_text(as_html(explained, sentiment.labels), encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{page} can't be written ({error.strerror}): choose another path.") from None
        click.echo(f"wrote {page}", err=True)


def _lines(text: str, found: dict[str, Any], coloured: bool) -> str:
    shown = "".join(
        _in_terminal(part, weight, why) if coloured else f"[{part}]" if why else part
        for part, weight, why in parts_of(text, found)
    )
    strongest = sorted(found["words"], key=lambda word: -abs(word["weight"]))[:_LISTED]
    words = [f"{word['weight']:+.2f}\t{word['word']}" for word in strongest if abs(word["weight"]) >= _WEAKEST]
    heading = f"toward {found['toward']}, log-odds:" if words else "no word counts for much"
    return "\n".join([f"{found['label']}\t{found['score']:.4f}", " ".join(shown.split("\n")), heading, *words])


def _in_terminal(part: str, weight: float, why: str | None) -> str:
    part = "".join(character if character.isprintable() or character == " " else " " for character in part)
    if why:
        return click.style(f"[{part}]", dim=True)
    level = strength(weight, len(_FOR))
    if level == 0:
        return part
    return click.style(part, fg=0 if level < 4 else 15, bg=(_FOR if weight > 0 else _AGAINST)[level - 1])


def strength(weight: float, levels: int) -> int:
    """The strength of the colour for a weight, from 0 (none) to ``levels``.

    >>> strength(0.01, 4), strength(-2.0, 4)
    (0, 4)
    """
    if abs(weight) < _WEAKEST:
        return 0
    return min(levels, 1 + int(levels * abs(weight) / _STRONGEST))


def parts_of(text: str, found: dict[str, Any]) -> list[tuple[str, float, str | None]]:
    """Split ``text`` into (part, weight, reason). The weight is 0 between words; a part that was read has no reason."""
    marks = [(word["start"], word["end"], word["weight"], None) for word in found["words"]]
    marks += [(part["start"], part["end"], 0.0, part["why"]) for part in found["unread"]]
    parts: list[tuple[str, float, str | None]] = []
    at = 0
    for start, end, weight, why in sorted(marks, key=lambda mark: mark[:2]):
        # Two words may share a character, such as the parts of an entity. The first word gets it.
        start = max(start, at)
        if start < end:
            parts += [(text[at:start], 0.0, None), (text[start:end], weight, why)]
            at = end
    return [part for part in [*parts, (text[at:], 0.0, None)] if part[0]]


def as_html(explained: list[tuple[str, dict[str, Any]]], labels: list[str]) -> str:
    """A self-contained HTML page: the reviews with their labels and coloured words."""
    return _PAGE.format(reviews="\n".join(_review(text, found, labels) for text, found in explained))


def _review(text: str, found: dict[str, Any], labels: list[str]) -> str:
    words = "".join(_marked(part, weight, why) for part, weight, why in parts_of(text, found))
    strongest = sorted(found["words"], key=lambda word: -abs(word["weight"]))[:_LISTED]
    rows = "".join(
        f"<tr><td>{html.escape(word['word'])}<td>{word['weight']:+.2f}"
        for word in strongest
        if abs(word["weight"]) >= _WEAKEST
    )
    toward = html.escape(found["toward"])
    other = html.escape(labels[0]) if len(labels) == 2 else "the next label"
    return (
        f"<section><h2>{html.escape(found['label'])} <small>{100 * found['score']:.1f} %</small></h2>\n"
        f'<p class="review" dir="auto">{words}</p>\n'
        f'<p class="key"><mark class="for4">for {toward}</mark> <mark class="against4">for {other}</mark> '
        "<s>not read</s></p>\n"
        + (f"<table><caption>Log-odds of {toward} that each word gives</caption>{rows}</table>\n" if rows else "")
        + "</section>"
    )


def _marked(part: str, weight: float, why: str | None) -> str:
    if why:
        return f'<s title="not read: {why}">{html.escape(part)}</s>'
    level = strength(weight, 4)
    if level == 0:
        return html.escape(part)
    return f'<mark class="{"for" if weight > 0 else "against"}{level}" title="{weight:+.2f}">{html.escape(part)}</mark>'


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>The words that decided</title>
<style>
:root {{ color-scheme: light dark; --for: 37 99 235; --against: 217 93 20; }}
body {{ font: 1.05rem/1.7 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }}
section + section {{ border-top: 1px solid #8886; margin-top: 2rem; }}
h2 {{ margin-bottom: 0; }} small {{ font-weight: normal; opacity: .8; }}
.review {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
mark {{ color: inherit; border-radius: .2em; padding: .05em .1em; }}
.for1 {{ background: rgb(var(--for) / .12); }} .against1 {{ background: rgb(var(--against) / .12); }}
.for2 {{ background: rgb(var(--for) / .22); }} .against2 {{ background: rgb(var(--against) / .22); }}
.for3 {{ background: rgb(var(--for) / .32); }} .against3 {{ background: rgb(var(--against) / .32); }}
.for4 {{ background: rgb(var(--for) / .45); }} .against4 {{ background: rgb(var(--against) / .45); }}
s {{ opacity: .6; }} .key {{ font-size: .9rem; }}
table {{ border-collapse: collapse; font-size: .95rem; }}
caption {{ text-align: left; opacity: .8; white-space: nowrap; }}
td {{ padding: .1rem 1rem .1rem 0; }} td + td {{ text-align: right; font-variant-numeric: tabular-nums; }}
</style>
<h1>The words that decided</h1>
{reviews}
</html>
"""
