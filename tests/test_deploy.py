"""deploy/: the image is built where an engine is, else its file is checked by a linter; the unit by systemd."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTAINERFILE = ROOT / "deploy" / "Containerfile"
UNIT = ROOT / "deploy" / "edge-imdb.service"
LINTER = ROOT / ".clients" / "lint" / "node_modules" / "dockerfile-utils" / "bin" / "dockerfile-utils"


def run(*command: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=900)


def test_the_image_is_built_and_answers_its_help() -> None:
    engine = shutil.which("podman") or shutil.which("buildah")
    if engine is None:
        pytest.skip("neither podman nor buildah is here: the file is only linted")
    done = run(engine, "build", "-f", CONTAINERFILE, "-t", "edge-imdb-test", ROOT)
    if re.search(r"dial tcp|no such host|connection refused|registries", done.stderr):
        pytest.skip("the base image can't be had: the file is only linted")
    assert done.returncode == 0, done.stderr[-2000:]
    if engine.endswith("podman"):
        done = run(engine, "run", "--rm", "--read-only", "--cap-drop", "ALL", "edge-imdb-test", "--help")
        assert done.returncode == 0 and "Serve both models over HTTP" in done.stdout, done.stderr[-2000:]


def test_the_containerfile_passes_a_linter() -> None:
    if shutil.which("node") is None or not LINTER.exists():
        pytest.skip("node or dockerfile-utils isn't there: make clients")
    done = run("node", LINTER, "lint", CONTAINERFILE)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_linter_finds_a_mistake(tmp_path: Path) -> None:
    if shutil.which("node") is None or not LINTER.exists():
        pytest.skip("node or dockerfile-utils isn't there: make clients")
    wrong = tmp_path / "Containerfile"
    wrong.write_text(CONTAINERFILE.read_text().replace("HEALTHCHECK --interval=10s", "HEALTHCHECK --interval=ten"))
    assert run("node", LINTER, "lint", wrong).stdout


def test_the_image_has_two_stages_another_user_and_a_health_check() -> None:
    lines = CONTAINERFILE.read_text().splitlines()
    words = [line.split()[0] for line in lines if line and line[0].isupper()]
    assert words.count("FROM") == 2 and "HEALTHCHECK" in words
    assert words.index("USER") > len(words) - 1 - words[::-1].index("FROM") and "USER 10001" in lines


def test_the_unit_is_valid(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze isn't there")
    # It looks for the program, which isn't installed in /opt here.
    program = Path(sys.executable).with_name("edge-imdb")
    text = UNIT.read_text()
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace("/opt/edge-imdb/bin/edge-imdb serve", f"{program} serve"))
    assert unit.read_text().count(str(program)) == 1
    done = run("systemd-analyze", "verify", "--recursive-errors=no", unit)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(text.replace("ProtectSystem=strict", "ProtectSystems=strict"))
    assert "ProtectSystems" in run("systemd-analyze", "verify", "--recursive-errors=no", unit).stderr


@pytest.mark.parametrize("path", [CONTAINERFILE, UNIT], ids=lambda path: path.name)
def test_their_commands_are_ones_that_serve_takes(path: Path) -> None:
    import click

    from edge_imdb.cli.main import cli
    from edge_imdb.cli.serve import serve

    line = next(line for line in path.read_text().splitlines() if line.startswith(("ENTRYPOINT", "ExecStart=")))
    words = re.findall(r'"([^"]*)"', line) or shlex.split(line.partition("=")[2])
    assert words[0].endswith("edge-imdb") and words[1] == "serve"
    # Below `edge-imdb`, as in life: Click keeps a command's first --help, and alone it would have no -h.
    parent = click.Context(cli, info_name="edge-imdb", **cli.context_settings)
    with serve.make_context("serve", words[2:], parent=parent) as context:
        assert context.params["port"] == 8000
