"""push: a bundle or a run to the Hub."""

from __future__ import annotations

from pathlib import Path

import click

from ..errors import BundleError


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("repository")
@click.option("--private", is_flag=True, help="Make the repository private, if it is new.")
def push(folder: Path, repository: str, private: bool) -> None:
    """Upload a bundle or a finished run to the Hub.

    FOLDER is the bundle or the run. REPOSITORY is the name user/repo; it is created if it doesn't exist. Every file of
    a bundle is checked before the upload. Log in once with `hf auth login`. After the upload, --model takes the
    repository's name.

    \b
    edge-imdb push models/sentiment user/repo
    edge-imdb predict "great film" --model user/repo
    """
    from ..data.run_folder import METRICS, uploaded_files
    from ..runtime.bundle import MANIFEST, open_bundle
    from ..runtime.hub import check_access, check_name, upload

    check_name(repository)
    if not folder.is_dir():
        raise BundleError(f"There is no folder {folder}: give one that `edge-imdb export` or `edge-imdb train` wrote.")
    if (folder / MANIFEST).exists():
        bundle = open_bundle(folder, None)
        for name in bundle.files:
            bundle.file(name)
        names = [MANIFEST, *bundle.files]
    elif (folder / METRICS).exists():
        names = uploaded_files(folder)
    else:
        raise BundleError(
            f"{folder} is neither a bundle (it has no {MANIFEST}) nor a finished run (it has no {METRICS}): give one "
            "that `edge-imdb export` or `edge-imdb train` wrote."
        )
    check_access(repository)
    click.echo(upload(folder, names, repository, private))
