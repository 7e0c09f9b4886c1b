"""serve: the command edge-imdb serve, with an option for every limit."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import click

from ..serve.limits import Limits
from ..tasks import TASKS
from .common import ModelOptions, import_extra, options_of


def _argument(task: str) -> str:
    return f"{task.replace('-', '_')}_model"


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for the bundle of every task."""
    for task in reversed(list(TASKS)):
        text = f"{task.capitalize()} bundle.  [default: see edge-imdb info]"
        command = click.option(f"--{task}-model", _argument(task), metavar="BUNDLE", help=text)(command)
    return command


@click.command()
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. An address that other machines can reach needs a key.",
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 picks a free port.",
)
@click.option("--api-key", envvar="EDGE_IMDB_API_KEY", help="Key that clients must send.  [env: EDGE_IMDB_API_KEY]")
@click.option("--insecure", is_flag=True, help="Answer other machines even without a key.")
@click.option("--open-metrics", is_flag=True, help="Answer /metrics without a key.")
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    help="Website whose pages may call the server, such as https://example.org; repeat for more.",
)
@click.option("--root-path", default="", help="Path below which a proxy serves this server, such as /imdb.")
@click.option(
    "--forwarded-allow-ips",
    default="127.0.0.1,::1",
    envvar="FORWARDED_ALLOW_IPS",
    show_default=True,
    help="Proxies whose X-Forwarded headers to trust: addresses or networks, or * for all.",
)
@click.option("--task", "tasks", type=click.Choice(list(TASKS)), multiple=True, help="Serve only this task.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Number of texts to process at the same time.  [default: one per core]",
)
@_model_options
@options_of(ModelOptions, "model_options", only=("precision", "provider"))
@click.option("--exact", is_flag=True, help="Do all the work: read the whole review, never stop early, drop no tokens.")
@click.option("--access-log/--no-access-log", default=True, show_default=True, help="Log one line per request.")
@options_of(Limits, "limits")
def serve(tasks: tuple[str, ...], model_options: ModelOptions, limits: Limits, **values: Any) -> None:
    """Serve both models over HTTP, to clients of Hugging Face and text-embeddings-inference.

    Every request is logged on standard error, as one line of JSON without its text. After SIGTERM or Ctrl-C the server
    finishes the requests in flight; a second signal stops it at once. The page at /docs lists the paths with examples.

    \b
    edge-imdb serve
    curl http://127.0.0.1:8000 -d '{"inputs": "great film"}'
    edge-imdb serve --host 0.0.0.0 --api-key "$KEY"
    """
    if values["api_key"] is None and "EDGE_IMDB_API_KEY" in os.environ:
        # click takes an empty variable as none; a secret that is missing must not open the server to everyone.
        values["api_key"] = os.environ["EDGE_IMDB_API_KEY"]
    tasks = tuple(dict.fromkeys(tasks)) or tuple(TASKS)
    module = import_extra("edge_imdb.serve.run", "serve")
    given = {task: values.pop(_argument(task)) for task in TASKS}
    models = {task: replace(model_options, model=given[task]).folder(task) for task in tasks}
    module.serve(
        module.ServeOptions(
            tasks=tasks,
            models=models,
            precision=model_options.precision,
            provider=model_options.provider,
            **values,
        ),
        limits,
    )
