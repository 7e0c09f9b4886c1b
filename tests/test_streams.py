"""Standard streams that are closed, or whose reader has gone: as a shell's users know it of every other command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.name != "posix", reason="this system has no POSIX shell")

EDGE_IMDB = f"{sys.executable} -m edge_imdb"


def shell(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line.replace("edge-imdb", EDGE_IMDB)], cwd=folder, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    "command", ["predict --file reviews.txt", "fill --file masks.txt", "--help", "predict --help", "info"]
)
def test_a_reader_that_has_gone_ends_a_command_with_141(tmp_path: Path, command: str) -> None:
    (tmp_path / "reviews.txt").write_text("great film\n" * 3000)
    (tmp_path / "masks.txt").write_text("a [MASK] film\n" * 3000)
    result = shell(f"edge-imdb {command} | true; echo ${{PIPESTATUS[0]}}", tmp_path)
    assert (result.stdout, result.stderr) == ("141\n", "")


@pytest.mark.parametrize("command", ["predict great", "fill 'a [MASK] film'", "--help", "info"])
def test_closed_standard_output_is_said_in_a_sentence(tmp_path: Path, command: str) -> None:
    result = shell(f"edge-imdb {command} >&-", tmp_path)
    assert result.returncode == 1
    assert result.stderr == "Error: Standard output is closed: redirect it to a file or a pipe.\n"


def test_a_command_that_prints_nothing_needs_no_standard_output(tmp_path: Path) -> None:
    result = shell("edge-imdb predict nothing --file there.txt >&-", tmp_path)
    assert (result.returncode, result.stderr) == (2, "Error: Give texts or --file, not both.\n")


@pytest.mark.parametrize(("redirections", "code"), [("2>&-", 0), ("<&-", 0), (">&- 2>&-", 1), ("<&- >&- 2>&-", 1)])
def test_other_closed_streams_stop_nothing(tmp_path: Path, redirections: str, code: int) -> None:
    result = shell(f"edge-imdb predict great {redirections}", tmp_path)
    assert (result.returncode, result.stderr) == (code, "")
    assert result.stdout == ("" if code else shell("edge-imdb predict great", tmp_path).stdout)


def test_closed_standard_input_is_empty(tmp_path: Path) -> None:
    result = shell("edge-imdb predict - <&-", tmp_path)
    assert result.returncode == 1 and result.stderr.startswith("Error: Standard input is empty")


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(tmp_path: Path, name: str) -> None:
    """From click: what to evaluate, and what goes on from a word that was begun."""
    program = "import sys; sys.argv[0] = 'edge-imdb'; from edge_imdb.cli.main import main; main()"
    environment = {**os.environ, "_EDGE_IMDB_COMPLETE": f"{name}_source"}
    command = [sys.executable, "-c", program]
    source = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert source.returncode == 0 and "_EDGE_IMDB_COMPLETE" in source.stdout, source.stderr
    environment |= {
        "_EDGE_IMDB_COMPLETE": f"{name}_complete",
        "COMP_WORDS": "edge-imdb predict --pre",
        "COMP_CWORD": "2",
    }
    if name == "fish":
        environment["COMP_CWORD"] = "--pre"
    offered = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert "--precision" in offered.stdout, offered.stderr
