"""Commands that write, killed between two writes: what was there is whole, what is new is whole or absent.

Each command runs once to list its steps (every open, fsync, rename, exchange and removal in its folder). Then it is
killed just before some of them, of every kind, and at a few random moments. ``make soak`` kills at all steps and at 30
random moments.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import as_arguments, fill_options, make_reviews, tiny_options, write_csv
from killing import SOAK, CommandServer, spread

from edge_imdb.runtime.bundle import open_bundle

# How many kills at a chosen step, and at a random moment, of each command.
STEPS, RANDOM = (10_000, 30) if SOAK else (8, 2)


@pytest.fixture(scope="module")
def few_reviews(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("few")
    return write_csv(folder / "train.csv", make_reviews(120)), write_csv(folder / "test.csv", make_reviews(20, 1))


def training(task: str, base: Path, files: tuple[Path, Path], output: Path, **more: object) -> list[str]:
    if task == "sentiment":
        return as_arguments(tiny_options(base, files, output, **{"epochs": 2.0, **more}))
    return as_arguments(fill_options(base, files, output, **{"epochs": 2.0, "checkpoint_steps": 3, **more}))


def weights(run: Path) -> str:
    return hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()


def check_run(run: Path) -> None:
    """Every file that a finished run has is there, and can be read."""
    json.loads((run / "metrics.json").read_text())
    json.loads((run / "run.json").read_text())
    for name in ("config.json", "tokenizer.json", "model.safetensors", "README.md", "curves.png", "log.jsonl"):
        assert (run / name).stat().st_size, name


def leftovers(folder: Path, allowed: set[str]) -> set[str]:
    return {path.name for path in folder.iterdir()} - allowed


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_training_survives_kills(
    command_server: CommandServer, task: str, tiny_bert: Path, few_reviews: tuple[Path, Path], tmp_path: Path
) -> None:
    """Some runs start in an empty folder and are resumed, the others replace a finished run."""
    whole, other = tmp_path / "whole", tmp_path / "other"
    steps = command_server.steps(training(task, tiny_bert, few_reviews, whole), whole)
    expected = weights(whole / task)
    code, seconds = command_server.run(training(task, tiny_bert, few_reviews, other, seed=1))
    assert code == 0, command_server.said
    draw, resumed, killed = random.Random(0), 0, 0
    moments: list[tuple[int | None, bool]] = [(step, False) for step in spread(steps, STEPS)]
    # A run that replaces another differs from a new one only at its end.
    moments += [(len(steps) - back, True) for back in ((0, 1, 3) if not SOAK else range(20))]
    moments += [(None, bool(number % 2)) for number in range(RANDOM)]
    for number, (step, replaced) in enumerate(moments):
        runs = tmp_path / f"runs-{number}"
        if replaced:
            shutil.copytree(other, runs)
        arguments = training(task, tiny_bert, few_reviews, runs, overwrite=replaced)
        if step is None:
            died = command_server.run(arguments, kill_after=draw.uniform(0, seconds))[0] == -9
        else:
            died = command_server.run_until(arguments, runs, step) == -9
            assert died or replaced, (step, steps[step])
        killed += died
        run = runs / task
        if replaced or run.exists():
            check_run(run)
            assert weights(run) in (expected, weights(other / task))
        if run.exists() and not replaced:
            assert weights(run) == expected
            if died:
                # It was removing what it no longer needed. The next command does that, even if it is refused.
                assert command_server.run(arguments)[0] == 1
                assert "already contains a finished run" in command_server.said
        else:
            checkpoints = [*(runs / f"{task}.partial").glob("checkpoint*")] if runs.exists() else []
            again = training(task, tiny_bert, few_reviews, runs, overwrite=replaced)
            # A run that was killed before its first complete checkpoint says to leave --resume out, or starts again.
            code = command_server.run([*again, "--resume"])[0] if checkpoints and not replaced else 1
            resumed += code == 0
            if code:
                code = command_server.run(again)[0]
            assert code == 0, command_server.said
            check_run(run)
            assert weights(run) == expected
        assert not leftovers(runs, {task}), "a run that ended by itself leaves nothing else"
        shutil.rmtree(runs)
    print(f"{task}: {killed} of {len(moments)} killed, of {len(steps)} steps; {resumed} resumed")
    assert resumed > 0 and killed >= min(STEPS, len(steps))


KILLED_AT_ITS_RECORD = """
import os, signal, sys
from pathlib import Path
import edge_imdb.cli.main

rename = Path.replace

def replace(path, target):
    if Path(target).name == "run.json":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)

Path.replace = replace
edge_imdb.cli.main.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_training_killed_while_it_writes_its_record_starts_again(
    command_server: CommandServer, tiny_bert: Path, few_reviews: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = training("sentiment", tiny_bert, few_reviews, tmp_path)
    assert subprocess.run([sys.executable, "-c", KILLED_AT_ITS_RECORD, *arguments]).returncode == -signal.SIGKILL
    assert leftovers(tmp_path, set()), "it had begun to write"
    assert command_server.run(arguments)[0] == 0, command_server.said
    assert leftovers(tmp_path, {"sentiment"}) == set()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_export_survives_kills(
    command_server: CommandServer, task: str, tiny_bert: Path, few_reviews: tuple[Path, Path], tmp_path: Path
) -> None:
    """An export writes a new bundle, or replaces that of another run, which until then can be read whole."""

    def export(seed: int, models: Path, *more: str) -> list[str]:
        arguments = ["export", task, "--quantize", "--from", str(tmp_path / f"runs-{seed}"), "--to", str(models)]
        return [*arguments, "--max-drop", "50", "--max-rise", "1000", *more]

    seconds, steps = 0.0, []
    for seed in (0, 1):
        runs = tmp_path / f"runs-{seed}"
        assert command_server.run(training(task, tiny_bert, few_reviews, runs, seed=seed))[0] == 0, command_server.said
        models = tmp_path / f"models-{seed}"
        if seed == 0:
            code, seconds = command_server.run(export(seed, models))
            assert code == 0, command_server.said
        else:
            shutil.copytree(tmp_path / "models-0", models)
            steps = command_server.steps(export(seed, models, "--overwrite"), models)
    digests = [graph(tmp_path / f"models-{seed}" / task) for seed in (0, 1)]
    assert digests[0] != digests[1]
    assert any(step.startswith("exchange") for step in steps), steps
    draw, killed = random.Random(0), 0
    # The bundle changes hands in the last steps.
    chosen = sorted({*spread(steps, STEPS), *range(max(0, len(steps) - STEPS // 2), len(steps))})
    moments: list[int | None] = [*chosen, *[None] * RANDOM]
    for number, step in enumerate(moments):
        models = tmp_path / f"killed-{number}"
        replaced = number % 3 != 1
        if replaced:
            shutil.copytree(tmp_path / "models-0", models)
        arguments = export(1, models, "--overwrite")
        if step is None:
            killed += command_server.run(arguments, kill_after=draw.uniform(0, seconds))[0] == -9
        else:
            killed += command_server.run_until(arguments, models, step) == -9
        if replaced or (models / task).exists():
            assert graph(models / task) in digests[0 if replaced else 1 :]
        if number % 4 == 0:
            assert command_server.run(arguments)[0] == 0, command_server.said
            assert graph(models / task) == digests[1]
            assert not leftovers(models, {task})
        shutil.rmtree(models, ignore_errors=True)
    print(f"{task}: {killed} of {len(moments)} exports killed, of {len(steps)} steps")
    assert killed >= len(chosen) * 2 // 3


def graph(bundle: Path) -> str:
    """The digest of a bundle's int8 weights, after checking all its files."""
    read = open_bundle(bundle, bundle.name)
    for name in read.files:
        read.file(name)
    return str(read.files["onnx/model_quantized.onnx_data"]["sha256"])
