"""Ctrl-C ends any command within a second, with exit code 130 and no traceback, and nothing half written."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import as_arguments, fill_options, make_reviews, tiny_options, write_csv

Files = tuple[Path, Path]


def interrupt(arguments: list[str], folder: Path, after: float | Path) -> None:
    """Press Ctrl-C after so many seconds, or when a file is there."""
    with subprocess.Popen(
        [sys.executable, "-m", "edge_imdb", *map(str, arguments)],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell starts background jobs, this test among them perhaps, with SIGINT ignored, and children inherit it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,
    ) as process:
        if isinstance(after, Path):
            while not after.exists():
                assert process.poll() is None, process.communicate()[1][-2000:]
                time.sleep(0.02)
        else:
            time.sleep(after)
        assert process.poll() is None, process.communicate()[1][-2000:]
        start = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        seconds = time.monotonic() - start
    assert process.returncode == 130, err[-2000:]
    assert b"Traceback" not in err, err[-2000:]
    assert seconds < 1, f"{seconds:.2f} s"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "many.csv", [(text * 20, label) for text, label in make_reviews(5000)])


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--windows"]])
def test_predict(many: Path, tmp_path: Path, more: list[str]) -> None:
    interrupt(["predict", "--file", str(many), "--json", *more], tmp_path, 1.5)


def test_predict_waiting_for_input(tmp_path: Path) -> None:
    interrupt(["predict", "-"], tmp_path, 1.0)


def test_fill_joint(tmp_path: Path) -> None:
    interrupt(["fill", "A film of [MASK] " + "[MASK] " * 7, "--joint", "--beams", "2000"], tmp_path, 1.5)


@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_evaluate(many: Path, tmp_path: Path, task: str) -> None:
    interrupt(["evaluate", task, "--data", str(many)], tmp_path, 1.5)


@pytest.mark.slow
@pytest.mark.parametrize("after", [1.0, "run.json", "log.jsonl"])
@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_train(task: str, tiny_bert: Path, reviews_csv: Files, tmp_path: Path, after: float | str) -> None:
    """While PyTorch is imported, while the run begins, and while it learns."""
    make = tiny_options if task == "sentiment" else fill_options
    runs = tmp_path / "runs"
    moment = runs / f"{task}.partial" / after if isinstance(after, str) else after
    interrupt(as_arguments(make(tiny_bert, reviews_csv, runs, epochs=200.0)), tmp_path, moment)
    assert not (runs / task).exists()


@pytest.mark.slow
def test_export(tiny_run: Path, tmp_path: Path) -> None:
    """As soon as it has begun to write, in the middle of tracing a graph."""
    models = tmp_path / "models"
    interrupt(["export", "sentiment", "--from", str(tiny_run.parent), "--to", str(models)], tmp_path, models)
    assert not (models / "sentiment").exists()
