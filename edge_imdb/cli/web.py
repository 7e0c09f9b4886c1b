"""web: the page, in a browser or as files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..errors import UsageError
from ..tasks import TASKS
from .common import say


def _model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options for the bundle of each task on the page. The command gets the bundles by task in ``models``."""
    shown = [task for task in TASKS if TASKS[task].page_graph]

    @functools.wraps(command)
    def grouped(**values: Any) -> None:
        values["models"] = models = {}
        for task in shown:
            name = task.replace("-", "_")
            path, without = values.pop(name), values.pop(f"without_{name}", False)
            if path is not None and without:
                raise UsageError(f"Give --{task} or --without-{task}, not both.")
            if not without:
                models[task] = path
        command(**values)

    decorated: Callable[..., None] = grouped
    for task in reversed(shown):
        if not TASKS[task].page_needs:
            text = f"Leave out the {task} model."
            decorated = click.option(f"--without-{task}", is_flag=True, help=text)(decorated)
        text = f"Folder of a {task} bundle."
        decorated = click.option(f"--{task}", type=click.Path(path_type=Path), help=text)(decorated)
    return decorated


@click.command()
@click.option("--build", type=click.Path(path_type=Path), help="Write the page to this folder instead of serving it.")
@click.option("--overwrite", is_flag=True, help="Replace the page that is already in that folder.")
@_model_options
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8040,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--no-browser", is_flag=True, help="Don't open a browser.")
def web(
    build: Path | None,
    overwrite: bool,
    models: dict[str, Path | None],
    host: str,
    port: int,
    no_browser: bool,
) -> None:
    """Open a page that labels reviews as you type and shows which words decided.

    The models run in the browser, and no text leaves it. With --build, the page is written to a folder that any web
    host can serve.

    \b
    edge-imdb web
    edge-imdb web --build site/
    """
    if overwrite and build is None:
        raise UsageError("--overwrite is for --build: leave it out.")
    from ..web.site import build_site, make_site

    if build is not None:
        size = build_site(build, models, overwrite=overwrite)
        say(f"wrote {build} ({size / 1e6:.1f} MB): any static web host can serve it, over HTTPS")
        return
    from ..web.server import make_server, open_browser

    server = make_server(make_site(models), host, port)
    address = f"http://{host}:{server.server_address[1]}/"
    say(f"serving {address} (Ctrl-C stops it)")
    if not no_browser:
        open_browser(address, say)
    try:
        server.serve_forever()
    finally:
        server.server_close()
