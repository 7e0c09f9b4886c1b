"""train: a command for each task, with an option for every hyperparameter."""

from __future__ import annotations

import importlib
from typing import Any

import click

from ..data.datasets import sources_of
from ..errors import UsageError
from ..runtime.hub import go_offline_if_unreachable
from ..tasks import TASKS
from ..train.options import Options, hyperparameters
from .common import import_extra, options_of, say


@click.group(invoke_without_command=True)
@click.option("--base", default=None, help="Checkpoint to start from.  [default: the task's]")
@click.option("--data", default=None, help="Reviews to train on.  [default: the task's]")
@click.option("--output", default=None, help="Folder to write the runs to.  [default: runs]")
@click.pass_context
def train(context: click.Context, base: str | None, data: str | None, output: str | None) -> None:
    """Train DistilBERT on reviews.

    Without a task, train the model of every task, with its defaults.

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
        for task in TASKS:
            _train(task, _options_of(task)(**given))
    elif given:
        raise UsageError(f"Give --{next(iter(given))} after the task: edge-imdb train {context.invoked_subcommand} …")


def _options_of(task: str) -> type[Options]:
    module, _, name = TASKS[task].train_options.partition(":")
    kind: type[Options] = getattr(importlib.import_module(module), name)
    return kind


def _train(task: str, options: Options) -> None:
    options.check()
    # Before PyTorch is imported, which takes seconds.
    go_offline_if_unreachable(options.base, *sources_of(hyperparameters(options)["data"] or []))
    module, _, name = TASKS[task].train.partition(":")
    getattr(import_extra(module, "train"), name)(options, say)


def _add_command(task: str) -> None:
    @train.command(task, help=TASKS[task].train_help)
    @options_of(_options_of(task), "options")
    def command(options: Options) -> None:
        _train(task, options)


for _task in TASKS:
    _add_command(_task)
