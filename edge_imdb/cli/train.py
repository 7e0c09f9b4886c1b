"""train: train either model, with an option for every hyperparameter."""

from __future__ import annotations

from typing import Any, get_type_hints

import click

from ..data.datasets import sources_of
from ..errors import UsageError
from ..runtime.hub import go_offline_if_unreachable
from ..train.options import FillMaskOptions, Options, SentimentOptions, fields_in_order
from .common import dataclass_options, import_extra, say


@click.group(invoke_without_command=True)
@click.option("--base", default=None, help="Checkpoint to start from.  [default: the task's]")
@click.option("--data", default=None, help="Reviews to train on.  [default: the task's]")
@click.option("--output", default=None, help="Folder to write the runs to.  [default: runs]")
@click.pass_context
def train(context: click.Context, base: str | None, data: str | None, output: str | None) -> None:
    """Train DistilBERT on reviews.

    Without a task, train sentiment and then fill-mask, with their defaults.

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
        raise UsageError(f"Give --{next(iter(given))} after the task: edge-imdb train {context.invoked_subcommand} …")


@train.command("sentiment")
@dataclass_options(fields_in_order(SentimentOptions), get_type_hints(SentimentOptions))
def train_sentiment(**options: Any) -> None:
    """Fine-tune a sentiment classifier.

    The finished run is a folder that is ready for the Hub, OUTPUT/sentiment.

    \b
    edge-imdb train sentiment
    edge-imdb train sentiment --data reviews.csv --test-data test.csv
    edge-imdb train sentiment --resume
    """
    _train_sentiment(SentimentOptions(**options))


def _train_sentiment(options: SentimentOptions) -> None:
    _prepare(options)
    import_extra("edge_imdb.train.sentiment", "train").train_sentiment(options, say)


@train.command("fill-mask")
@dataclass_options(fields_in_order(FillMaskOptions), get_type_hints(FillMaskOptions))
def train_fill_mask(**options: Any) -> None:
    """Adapt a masked language model to film reviews.

    The finished run is a folder that is ready for the Hub, OUTPUT/fill-mask.

    \b
    edge-imdb train fill-mask
    edge-imdb train fill-mask --unsupervised --precision auto
    edge-imdb train fill-mask --resume
    """
    _train_fill_mask(FillMaskOptions(**options))


def _train_fill_mask(options: FillMaskOptions) -> None:
    _prepare(options)
    import_extra("edge_imdb.train.fill_mask", "train").train_fill_mask(options, say)


def _prepare(options: Options) -> None:
    """What needs no PyTorch, and so no seconds until it is imported."""
    options.check()
    go_offline_if_unreachable(options.base, *sources_of(options.data))
