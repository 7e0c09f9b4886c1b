"""README's help texts are the program's. ``python tests/test_readme.py`` writes them anew."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from edge_imdb.cli import cli

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"```\n\$ edge-imdb ([a-z -]*?)--help\n(.*?)```\n", re.DOTALL)


def help_of(names: str) -> str:
    """The help of a command as README shows it."""
    command: click.Command = cli
    context = click.Context(command, info_name="edge-imdb", terminal_width=100, **cli.context_settings)
    for name in names.split():
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
        context = click.Context(command, info_name=name, parent=context, terminal_width=100)
    return command.get_help(context) + "\n"


def test_readme_shows_every_command() -> None:
    shown = {match[1].strip() for match in BLOCK.finditer(README.read_text(encoding="utf-8"))}
    assert shown >= {"train sentiment", "train fill-mask", *cli.commands}


@pytest.mark.parametrize("names", [match[1].strip() for match in BLOCK.finditer(README.read_text(encoding="utf-8"))])
def test_help_in_readme_is_the_programs(names: str) -> None:
    shown = {match[1].strip(): match[2] for match in BLOCK.finditer(README.read_text(encoding="utf-8"))}
    assert shown[names] == help_of(names), "run: python tests/test_readme.py"


def test_readme_leans_on_nothing_outside_the_clone() -> None:
    assert "../shared" not in README.read_text(encoding="utf-8")


if __name__ == "__main__":
    text = README.read_text(encoding="utf-8")
    README.write_text(
        BLOCK.sub(lambda m: f"```\n$ edge-imdb {m[1]}--help\n{help_of(m[1].strip())}```\n", text), encoding="utf-8"
    )
