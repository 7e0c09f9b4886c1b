"""Commands that write, killed at 30 random moments each: what was there is whole, what is new is whole or absent."""

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
from killing import Workshop

from edge_imdb.runtime.bundle import open_bundle

KILLS = 30


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
    workshop: Workshop, task: str, tiny_bert: Path, few_reviews: tuple[Path, Path], tmp_path: Path
) -> None:
    """Half of the runs start in an empty folder and are resumed; the other half replace a finished run."""
    whole = tmp_path / "whole"
    undisturbed, first = workshop.run(training(task, tiny_bert, few_reviews, whole))
    assert undisturbed == 0, workshop.said
    expected = weights(whole / task)
    other = tmp_path / "other"
    code, second = workshop.run(training(task, tiny_bert, few_reviews, other, seed=1))
    assert code == 0, workshop.said
    # The first run has cold caches and may take longer.
    seconds = min(first, second)
    draw, number, killed, resumed = random.Random(0), 0, 0, 0
    # 30 moments, and more if none of them is between the first checkpoint and the end.
    while number < KILLS or (not resumed and number < 3 * KILLS):
        runs = tmp_path / f"runs-{number}"
        replaced = number % 2 == 1
        if replaced:
            shutil.copytree(other, runs)
        arguments = training(task, tiny_bert, few_reviews, runs, overwrite=replaced)
        died = workshop.run(arguments, kill_after=draw.uniform(0, seconds))[0] == -9
        killed += died
        run = runs / task
        if replaced or run.exists():
            check_run(run)
            assert weights(run) in (expected, weights(other / task))
        if run.exists() and not replaced:
            assert weights(run) == expected
            if died:
                # It was clearing away what it no longer needed. The next command does so, even one that is refused.
                assert workshop.run(arguments)[0] == 1 and "already contains a finished run" in workshop.said
        else:
            checkpoints = [*(runs / f"{task}.partial").glob("checkpoint*")] if runs.exists() else []
            again = training(task, tiny_bert, few_reviews, runs, overwrite=replaced)
            # A run that was killed before its first complete checkpoint says to leave --resume out, or starts again.
            code = workshop.run([*again, "--resume"])[0] if checkpoints and not replaced else 1
            resumed += code == 0
            if code:
                code = workshop.run(again)[0]
            assert code == 0, workshop.said
            check_run(run)
            assert weights(run) == expected
        assert not leftovers(runs, {task}), "a run that ended in peace leaves nothing else"
        number += 1
    print(f"{task}: {killed} of {number} killed within {seconds:.1f} s, {resumed} resumed")
    assert killed > number / 2 and resumed > 0


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
    workshop: Workshop, tiny_bert: Path, few_reviews: tuple[Path, Path], tmp_path: Path
) -> None:
    arguments = training("sentiment", tiny_bert, few_reviews, tmp_path)
    assert subprocess.run([sys.executable, "-c", KILLED_AT_ITS_RECORD, *arguments]).returncode == -signal.SIGKILL
    assert leftovers(tmp_path, set()), "it had begun to write"
    assert workshop.run(arguments)[0] == 0, workshop.said
    assert leftovers(tmp_path, {"sentiment"}) == set()


@pytest.mark.slow
@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_export_survives_kills(
    workshop: Workshop, task: str, tiny_bert: Path, few_reviews: tuple[Path, Path], tmp_path: Path
) -> None:
    """Each export replaces the bundle of another run, which until then can be read whole."""
    folders = {}
    for seed in (0, 1):
        runs, models = tmp_path / f"runs-{seed}", tmp_path / f"models-{seed}"
        assert workshop.run(training(task, tiny_bert, few_reviews, runs, seed=seed))[0] == 0, workshop.said
        arguments = ["export", task, "--quantize", "--from", str(runs), "--to", str(models), "--max-drop", "50"]
        code, seconds = workshop.run([*arguments, "--max-rise", "1000"])
        assert code == 0, workshop.said
        folders[seed] = (runs, models)
    digests = [graph(folders[seed][1] / task) for seed in (0, 1)]
    assert digests[0] != digests[1]
    draw, killed, absent = random.Random(0), 0, 0
    for number in range(KILLS):
        models = tmp_path / f"killed-{number}"
        replaced = number % 2 == 1
        if replaced:
            shutil.copytree(folders[0][1], models)
        arguments = ["export", task, "--quantize", "--from", str(folders[1][0]), "--to", str(models), "--overwrite"]
        arguments += ["--max-drop", "50", "--max-rise", "1000"]
        code, took = workshop.run(arguments, kill_after=draw.uniform(0, seconds))
        killed += code == -9
        if code == 0:
            # The first runs were slower: so that half of the kills still find one running.
            seconds = min(seconds, took)
        if replaced or (models / task).exists():
            assert graph(models / task) in digests[0 if replaced else 1 :]
        else:
            absent += 1
        if number % 5 == 0:
            assert workshop.run(arguments)[0] == 0, workshop.said
            assert graph(models / task) == digests[1]
            assert not leftovers(models, {task})
    print(f"{task}: {killed} of {KILLS} exports killed within {seconds:.1f} s, {absent} before anything was there")
    assert killed > KILLS / 2


def graph(bundle: Path) -> str:
    """The digest of a bundle's int8 weights, after checking all its files."""
    read = open_bundle(bundle, bundle.name)
    for name in read.files:
        read.file(name)
    return str(read.files["onnx/model_quantized.onnx_data"]["sha256"])
