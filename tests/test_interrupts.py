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
from killing import CommandServer

Files = tuple[Path, Path]


def interrupt(arguments: list[str], folder: Path, moment: Path | str) -> None:
    """Press Ctrl-C when a file exists, or when the command has opened one whose name ends with ``moment``."""
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
        while not (moment.exists() if isinstance(moment, Path) else maps(process.pid, moment)):
            assert process.poll() is None, process.communicate()[1][-2000:]
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()[1][-2000:]
        start = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        seconds = time.monotonic() - start
    assert process.returncode == 130, err[-2000:]
    assert b"Traceback" not in err, err[-2000:]
    assert seconds < 1, f"{seconds:.2f} s"


def interrupt_child(server: CommandServer, arguments: list[str], moment: Path) -> None:
    """``interrupt`` for a command that is forked from a process which has imported PyTorch."""
    child = server.start(arguments)
    while not moment.exists():
        assert Path(f"/proc/{child}").exists(), server.said
        time.sleep(0.02)
    start = time.monotonic()
    os.kill(child, signal.SIGINT)
    code = server.wait()
    seconds = time.monotonic() - start
    assert code == 130 and "Traceback" not in server.said, server.said
    assert seconds < 1, f"{seconds:.2f} s"


def maps(process: int, name: str) -> bool:
    """Whether a process has a file in its memory, a library or weights, whose name ends with ``name``."""
    return any(line.rstrip().endswith(name) for line in Path(f"/proc/{process}/maps").read_text().splitlines())


# The weights of the graph, the last file that a command opens before it starts to work.
WEIGHTS = "model_quantized.onnx_data"


@pytest.fixture
def many(tmp_path: Path) -> Path:
    return write_csv(tmp_path / "many.csv", [(text * 20, label) for text, label in make_reviews(5000)])


@pytest.mark.parametrize("more", [[], ["--workers", "2"], ["--sliding-windows"]])
def test_predict(many: Path, tmp_path: Path, more: list[str]) -> None:
    interrupt(["predict", "--file", str(many), "--json", *more], tmp_path, WEIGHTS)


def test_predict_waiting_for_input(tmp_path: Path) -> None:
    interrupt(["predict", "-"], tmp_path, WEIGHTS)


def test_fill_joint(tmp_path: Path) -> None:
    interrupt(["fill", "A film of [MASK] " + "[MASK] " * 7, "--joint", "--beams", "2000"], tmp_path, WEIGHTS)


@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_evaluate(many: Path, tmp_path: Path, task: str) -> None:
    interrupt(["evaluate", task, "--data", str(many)], tmp_path, WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_train_while_it_imports_pytorch(task: str, tiny_bert: Path, reviews_csv: Files, tmp_path: Path) -> None:
    make = tiny_options if task == "sentiment" else fill_options
    runs = tmp_path / "runs"
    interrupt(as_arguments(make(tiny_bert, reviews_csv, runs, epochs=200.0)), tmp_path, "libtorch_cpu.so")
    assert not (runs / task).exists()


@pytest.mark.slow
@pytest.mark.parametrize("after", ["run.json", "log.jsonl"])
@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_train(
    command_server: CommandServer, task: str, tiny_bert: Path, reviews_csv: Files, tmp_path: Path, after: str
) -> None:
    """While the run starts, and during training."""
    make = tiny_options if task == "sentiment" else fill_options
    runs = tmp_path / "runs"
    arguments = as_arguments(make(tiny_bert, reviews_csv, runs, epochs=200.0))
    interrupt_child(command_server, arguments, runs / f"{task}.partial" / after)
    assert not (runs / task).exists()


@pytest.mark.slow
def test_export(command_server: CommandServer, tiny_run: Path, tmp_path: Path) -> None:
    """As soon as it has started to write, while it traces a graph."""
    models = tmp_path / "models"
    interrupt_child(
        command_server, ["export", "sentiment", "--from", str(tiny_run.parent), "--to", str(models)], models
    )
    assert not (models / "sentiment").exists()


@pytest.mark.parametrize("failure", ["command", "bars"])
def test_a_library_that_fails_during_ctrl_c_changes_nothing(failure: str) -> None:
    """In the command itself, or while its progress bars are closed."""
    code = """
import sys
from edge_imdb.cli import main
def fail(*arguments, **options):
    try:
        raise KeyboardInterrupt
    finally:
        if sys.argv[1] == "command":
            raise RuntimeError("torn down halfway")
def close():
    raise RuntimeError("a bar was being drawn")
main.cli.main, main._close_bars = fail, close
main.main([])
"""
    done = subprocess.run([sys.executable, "-c", code, failure], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")
