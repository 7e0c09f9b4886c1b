"""web: the page, in a browser or as files."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import UsageError
from .common import say


@click.command()
@click.option("--build", type=click.Path(path_type=Path), help="Write the page to this folder instead of serving it.")
@click.option("--overwrite", is_flag=True, help="Replace the page that is already in that folder.")
@click.option("--sentiment", type=click.Path(path_type=Path), help="Folder of a sentiment bundle.")
@click.option("--fill-mask", type=click.Path(path_type=Path), help="Folder of a fill-mask bundle.")
@click.option("--without-fill-mask", is_flag=True, help="Leave out the model that fills in masked words.")
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
    sentiment: Path | None,
    fill_mask: Path | None,
    without_fill_mask: bool,
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
    if without_fill_mask and fill_mask is not None:
        raise UsageError("Give --fill-mask or --without-fill-mask, not both.")
    if overwrite and build is None:
        raise UsageError("--overwrite is for --build: leave it out.")
    from ..web.site import build_site, make_site

    models: dict[str, Path | None] = {"sentiment": sentiment}
    if not without_fill_mask:
        models["fill-mask"] = fill_mask
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
