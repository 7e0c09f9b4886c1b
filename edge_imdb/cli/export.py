"""export: turn finished runs into bundles."""

from __future__ import annotations

from pathlib import Path

import click

from ..export.options import ExportOptions
from ..tasks import TASKS
from .common import import_extra, options_of, say

EXPORT_TASKS = (*TASKS, "all")


@click.command()
@click.argument("task", type=click.Choice(EXPORT_TASKS), default="all")
@click.option(
    "--from", "source", default="runs", show_default=True, help="Folder of finished runs, as edge-imdb train writes it."
)
@click.option("--to", "folder", default="models", show_default=True, help="Folder to write the bundles to.")
@options_of(ExportOptions, "options")
def export(task: str, source: str, folder: str, options: ExportOptions) -> None:
    """Turn finished runs into bundles, the folders that the runtime opens.

    A bundle is written only if it passes the gate. The fp32 graph's logits must be within 1e-4 of PyTorch's. On the
    held-out validation reviews, int8 may lose at most --max-drop points of accuracy and --max-loss-rise nats of log
    loss (sentiment), or raise perplexity by at most --max-rise percent (fill-mask).

    Without a task, every task that has a finished run is exported.

    \b
    edge-imdb export --quantize
    edge-imdb export sentiment --quantize --from runs --to models
    """
    options.check()
    tasks: tuple[str, ...] = (task,)
    if task == "all":
        finished = [name for name in TASKS if (Path(source) / name).is_dir()]
        for name in TASKS:
            if finished and name not in finished:
                say(f"There is no finished run in {Path(source) / name}: {name} is not exported.")
        tasks = tuple(finished) or tuple(TASKS)
    pipeline = import_extra("edge_imdb.export.pipeline", "export")
    for name in tasks:
        pipeline.export_run(name, Path(source) / name, Path(folder) / name, options, say)
