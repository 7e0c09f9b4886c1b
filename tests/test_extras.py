"""Each extra alone does its job, in an environment that has only the packages of that extra.

The environments are made of the packages that are installed here: those that pip would install for the extra, and the
packages that these require. They need no network.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from conftest import write_csv
from packaging.requirements import Requirement
from serving import Server

ROOT = Path(__file__).resolve().parents[1]
pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="environments are made of links")]


def closure(extras: list[str]) -> dict[str, Distribution]:
    """The installed distributions that edge-imdb needs with ``extras``."""
    found: dict[str, Distribution] = {}
    due = [("edge-imdb", frozenset(extras))]
    seen = set()
    while due:
        name, wanted = due.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # optional on this system, such as the CUDA libraries of PyTorch
        if name != "edge-imdb":
            found[name] = package
        for line in package.requires or []:
            required = Requirement(line)
            if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                due.append((required.name.lower().replace("_", "-"), frozenset(required.extras)))
    return found


def environment(folder: Path, extras: list[str]) -> Path:
    """The interpreter of a new environment with edge-imdb and the packages of ``extras`` alone."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    for package in closure(extras).values():
        for name in {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            link = packages / name
            if not link.exists():
                link.symlink_to(Path(str(package.locate_file(name))))
    (packages / "edge_imdb.pth").write_text(f"{ROOT}\n")
    return folder / "bin" / "python"


def run(python: Path, *arguments: object, cwd: Path) -> str:
    settings = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [python, "-m", "edge_imdb", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **settings},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_environment_has_only_the_packages_of_its_extra(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", ["cpu"])
    code = "import importlib.util as u, sys; print([n for n in sys.argv[1:] if u.find_spec(n)])"
    names = ["numpy", "onnxruntime", "tokenizers", "torch", "transformers", "onnx", "pyarrow", "starlette", "pytest"]
    done = subprocess.run([python, "-c", code, *names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['numpy', 'onnxruntime', 'tokenizers']"


def test_cpu_alone_predicts_fills_and_explains(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", ["cpu"])
    assert json.loads(run(python, "predict", "great film", "--json", cwd=tmp_path))["label"] == "pos"
    assert "[MASK]" not in run(python, "fill", "A great [MASK].", cwd=tmp_path)
    assert "great" in run(python, "explain", "A great film.", cwd=tmp_path)


def test_train_alone_trains(tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", ["train"])
    arguments = ["--base", tiny_bert, "--data", reviews_csv[0], "--epochs", 1, "--max-length", 32, "--limit", 40]
    run(python, "train", "sentiment", *arguments, "--validation", 0.2, cwd=tmp_path)
    assert (tmp_path / "runs" / "sentiment" / "model.safetensors").exists()


def test_export_and_cpu_alone_export(tiny_run: Path, fill_run: Path, tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", ["export", "cpu"])
    for task, source in (("sentiment", tiny_run), ("fill-mask", fill_run)):
        accept = ["--max-drop", 100, "--max-loss-rise", 100, "--max-rise", 1000]
        run(python, "export", task, "--quantize", "--from", source.parent, *accept, cwd=tmp_path)
        assert (tmp_path / "models" / task / "onnx" / "model_edge.pb").exists()
    run(python, "predict", "great film", "--model", tmp_path / "models" / "sentiment", cwd=tmp_path)


def test_serve_and_cpu_alone_serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", str(environment(tmp_path / "venv", ["serve", "cpu"])))
    server = Server(cwd=tmp_path)
    try:
        server.wait_for("ready", 120)
        answer = server.post("/", {"inputs": "great film"})
        assert answer.status == 200 and "pos" in json.dumps(answer.content)
    finally:
        server.process.kill()


def test_score_and_cpu_alone_score(tmp_path: Path) -> None:
    python = environment(tmp_path / "venv", ["score", "cpu"])
    source = write_csv(tmp_path / "reviews.csv", [("great film", "pos"), ("awful film", "neg")])
    run(python, "score", source, "--output", tmp_path / "out", cwd=tmp_path)
    assert len(list((tmp_path / "out").glob("*"))) > 1
