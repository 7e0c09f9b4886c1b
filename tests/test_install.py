"""The package as people install it: its wheel in an empty environment, with the oldest versions, and on newer Pythons.

`make test` makes the environments .venv-wheel, .venv-oldest, .venv-3.12 and .venv-3.13 once. Tests of a missing
environment skip and say so.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = {"wheel": ROOT / ".venv-wheel", "oldest": ROOT / ".venv-oldest"}
# The Pythons that pyproject.toml names, beside the one of .venv-wheel.
PYTHONS = {version: ROOT / f".venv-{version}" for version in ("3.12", "3.13")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def run(environment: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of one of the environments, with none of this one's settings."""
    folder = {**ENVIRONMENTS, **PYTHONS}[environment]
    if not (folder / ".installed").exists():
        pytest.skip(f"there is no environment {folder.name}: `make {folder.name}/.installed` makes it")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EDGE_IMDB"))}
    program = folder / "bin" / arguments[0]
    return subprocess.run(
        [program, *arguments[1:]], cwd=cwd, env=kept, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize("environment", [*ENVIRONMENTS, *PYTHONS])
def test_predict_and_fill_work(environment: str, tmp_path: Path) -> None:
    label = run(environment, "edge-imdb", "predict", "great film", cwd=tmp_path)
    assert re.fullmatch(r"pos\t0\.9\d{3}\n", label.stdout), label
    words = run(environment, "edge-imdb", "fill", "This is a great [MASK]!", "--top-k", "2", "--json", cwd=tmp_path)
    assert {fill["token_str"] for fill in json.loads(words.stdout)["fills"]} == {"film", "movie"}, words
    assert not (label.stderr or words.stderr)


def test_every_folder_with_modules_is_in_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "edge_imdb").rglob("*.py")}
    assert listed == {".".join(folder.parts) for folder in folders} | {"edge_imdb.train", "edge_imdb.export"}


def test_every_python_that_pyproject_names_has_an_environment_here() -> None:
    named = {line.rpartition(" ")[2] for line in PROJECT["classifiers"] if line.count("::") == 2 and ":: 3." in line}
    assert named == {"3.11", *PYTHONS}


@pytest.mark.parametrize("version", PYTHONS)
def test_a_newer_python_gives_the_same_score(version: str, tmp_path: Path) -> None:
    text = "The plot is thin but the leads are charming."
    assert run(version, "python", "--version", cwd=tmp_path).stdout.startswith(f"Python {version}.")
    scores = [
        json.loads(run(environment, "edge-imdb", "predict", text, "--json", cwd=tmp_path).stdout)["score"]
        for environment in ("wheel", version)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


def test_an_index_is_told_who_made_it_what_it_is_about_and_how_to_show_the_readme() -> None:
    found = metadata("edge-imdb")
    assert found["Author"] and found["License-Expression"] == "Apache-2.0"
    assert {"sentiment-analysis", "fill-mask", "onnx"} <= set(found["Keywords"].split(","))
    assert found["Description-Content-Type"] == "text/markdown"
    assert str(found.get_payload()).strip().startswith("# edge-imdb\n")


@pytest.mark.parametrize("environment", sorted(ENVIRONMENTS))
def test_the_device_gets_four_packages_and_what_they_need(environment: str, tmp_path: Path) -> None:
    names = run(environment, "python", "-m", "pip", "list", "--format", "freeze", cwd=tmp_path).stdout.lower()
    installed = {line.partition("==")[0].replace("_", "-") for line in names.splitlines()}
    assert {"edge-imdb", "numpy", "onnxruntime", "tokenizers", "click"} <= installed
    assert not installed & {"torch", "transformers", "datasets", "accelerate", "optimum", "onnx", "pandas", "pyarrow"}


def test_the_oldest_environment_has_the_oldest_versions_that_pyproject_promises(tmp_path: Path) -> None:
    promised = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]]
    wanted = dict(requirement.split(">=") for requirement in promised)
    names = run("oldest", "python", "-m", "pip", "list", "--format", "freeze", cwd=tmp_path).stdout
    installed = dict(line.split("==") for line in names.splitlines() if "==" in line)
    for name, version in wanted.items():
        assert installed[name].startswith(f"{version}."), (name, version, installed[name])


def test_both_give_the_same_label_and_nearly_the_same_score(tmp_path: Path) -> None:
    text = "The plot is thin but the leads are charming."
    scores = []
    for environment in ENVIRONMENTS:
        done = run(environment, "edge-imdb", "predict", text, "--json", cwd=tmp_path)
        scores.append(json.loads(done.stdout))
    assert scores[0]["label"] == scores[1]["label"]
    # ONNX Runtime 1.19 computes layer norms in another order than the newest.
    assert abs(scores[0]["score"] - scores[1]["score"]) < 0.05


def test_commands_of_a_missing_extra_name_it(tmp_path: Path) -> None:
    for arguments, extra in ((["train"], "train"), (["export"], "export")):
        done = run("wheel", "edge-imdb", *arguments, cwd=tmp_path)
        assert done.returncode == 1 and f"edge-imdb[{extra}" in done.stderr and "Traceback" not in done.stderr, done


def test_a_clone_is_whole_where_python_prefers_it_to_what_is_installed(tmp_path: Path) -> None:
    """``accelerate launch -m edge_imdb train`` in a clone, where train and export stand beside edge_imdb."""
    command = ("python", "-m", "edge_imdb", "train", "sentiment", "--epochs", "0")
    for folder in (ROOT, tmp_path):
        result = run("wheel", *command, cwd=folder)
        assert (result.returncode, result.stderr) == (2, "Error: --epochs is 0.0: it must be over 0.\n"), folder
