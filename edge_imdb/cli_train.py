"""train: the command edge-imdb train, with an option for every hyperparameter."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any

import click

from .cli import say, workshop
from .errors import UsageError
from .options import FillMaskOptions, Options, SentimentOptions, fields_in_order


def _hyperparameter_options(
    kind: type[Options],
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """An option for every field of ``kind``, its default and its help taken from there."""
    return lambda command: _with_options(command, kind)


def _with_options(command: Callable[..., None], kind: type[Options]) -> Callable[..., None]:
    hints = typing.get_type_hints(kind)
    for field in reversed(fields_in_order(kind)):
        hint = hints[field.name]
        kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType] or [hint]
        flag = "--" + field.name.replace("_", "-")
        if kinds[0] is bool:
            decorate = click.option(flag, is_flag=True, help=field.metadata["help"])
        else:
            decorate = click.option(
                flag,
                type=click.Choice(field.metadata["choices"]) if field.metadata["choices"] else kinds[0],
                default=field.default,
                show_default=field.default is not None,
                help=field.metadata["help"],
            )
        command = decorate(command)
    return command


@click.group(invoke_without_command=True)
@click.option("--base", default=None, help="Checkpoint to start from.  [default: as the task's]")
@click.option("--data", default=None, help="Reviews to train on.  [default: as the task's]")
@click.option("--output", default=None, help="Folder of runs.  [default: runs]")
@click.pass_context
def train(context: click.Context, base: str | None, data: str | None, output: str | None) -> None:
    """Fine-tune DistilBERT on reviews. Without a task: sentiment, then fill-mask, with their defaults.

    \b
    edge-imdb train
    edge-imdb train fill-mask --unsupervised
    edge-imdb train sentiment --data reviews.csv --epochs 2
    accelerate launch -m edge_imdb train sentiment
    """
    given: dict[str, Any] = {
        name: value for name, value in (("base", base), ("data", data), ("output", output)) if value is not None
    }
    if context.invoked_subcommand is None:
        _train_sentiment(SentimentOptions(**given))
        _train_fill_mask(FillMaskOptions(**given))
    elif given:
        raise UsageError(f"Give --{next(iter(given))} behind the task: edge-imdb train {context.invoked_subcommand} …")


@train.command("sentiment")
@_hyperparameter_options(SentimentOptions)
def train_sentiment(**options: Any) -> None:
    """Fine-tune a sentiment classifier; leaves a Hub-ready folder in OUTPUT/sentiment.

    \b
    edge-imdb train sentiment
    edge-imdb train sentiment --data reviews.csv --test-data test.csv
    edge-imdb train sentiment --resume
    """
    _train_sentiment(SentimentOptions(**options))


def _train_sentiment(options: SentimentOptions) -> None:
    workshop("edge_imdb.train.sentiment", "train").train_sentiment(options, say)


@train.command("fill-mask")
@_hyperparameter_options(FillMaskOptions)
def train_fill_mask(**options: Any) -> None:
    """Adapt a masked language model to film talk; leaves a Hub-ready folder in OUTPUT/fill-mask.

    \b
    edge-imdb train fill-mask
    edge-imdb train fill-mask --unsupervised --precision auto
    edge-imdb train fill-mask --resume
    """
    _train_fill_mask(FillMaskOptions(**options))


def _train_fill_mask(options: FillMaskOptions) -> None:
    workshop("edge_imdb.train.fill_mask", "train").train_fill_mask(options, say)
