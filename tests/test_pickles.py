"""Sentiment and FillMask pickled by their arguments: spawned processes, joblib, Ray, copies; closed; shown."""

from __future__ import annotations

import copy
import gc
import inspect
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import edit_manifest

from edge_imdb import FillMask, Sentiment
from edge_imdb.errors import BundleError, UsageError

KINDS = [(Sentiment, "great film"), (FillMask, "a [MASK] film")]


@pytest.mark.parametrize(("kind", "text"), KINDS)
@pytest.mark.parametrize("again", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy, copy.copy])
def test_a_pickle_or_a_copy_gives_the_same_results(kind: type[Any], text: str, again: Any) -> None:
    model = kind(threads=1)
    other = again(model)
    assert other is not model and other(text) == model(text) and other.reason == "embedded"
    # Each has a session of its own.
    model.close()
    assert other(text) == kind(threads=1)(text)


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_a_pickle_is_small(kind: type[Any]) -> None:
    assert len(pickle.dumps(kind(threads=1))) < 1000


@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_every_argument_of_the_constructor_is_pickled(kind: type[Any]) -> None:
    """An argument that is added and forgotten would be lost on its way to another process."""
    expected = set(inspect.signature(kind).parameters) - {"model", "revision", "unsupported"}
    assert set(kind(threads=1)._arguments) == expected


def test_arguments_arrive() -> None:
    given = {
        "exact": True,
        "sliding_windows": True,
        "min_score": 0.7,
        "threads": 2,
        "precision": "int8",
        "provider": "cpu",
        "executor": None,
        "top_k": None,
        "function_to_apply": "sigmoid",
        "truncation": "only_first",
        "max_length": 64,
        "batch_size": 2,
    }
    model = Sentiment(**given)  # type: ignore[arg-type]
    arguments = pickle.loads(pickle.dumps(model))._arguments
    assert arguments == model._arguments and given.items() <= arguments.items()
    assert pickle.loads(pickle.dumps(Sentiment(threads=1)))("great film") == Sentiment()("great film")
    assert pickle.loads(pickle.dumps(Sentiment(device=-1, threads=1)))._arguments["provider"] == "cpu"


def test_a_relative_folder_arrives_whatever_the_working_directory(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_bundle.parent)
    pickled = pickle.dumps(Sentiment(tiny_bundle.name, threads=1))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(pickled).bundle.path == tiny_bundle


def test_the_environment_of_the_receiver_doesnt_change_the_model(
    tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = pickle.dumps(Sentiment(threads=1))
    (tmp_path / "sentiment").symlink_to(tiny_bundle)
    monkeypatch.setenv("EDGE_IMDB_MODELS", str(tmp_path))
    assert pickle.loads(embedded).reason == "embedded"
    found = Sentiment(threads=1)
    assert found.reason == "$EDGE_IMDB_MODELS"
    monkeypatch.delenv("EDGE_IMDB_MODELS")
    assert pickle.loads(pickle.dumps(found)).bundle.digest == found.bundle.digest


def test_a_bundle_that_is_missing_or_another_there_is_refused(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    pickled = pickle.dumps(Sentiment(folder, threads=1))
    edit_manifest(folder, labels=["bad", "good"])
    with pytest.raises(BundleError, match="not the one that was pickled"):
        pickle.loads(pickled)
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match="There is no bundle in"):
        pickle.loads(pickled)


def _label(model: Sentiment, text: str) -> tuple[int, list[dict[str, Any]]]:
    return os.getpid(), model(text)


def test_a_spawned_process_takes_a_model() -> None:
    model = Sentiment(threads=1)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        process, result = pool.submit(_label, model, "great film").result(timeout=60)
    assert process != os.getpid() and result == model("great film")


def test_a_worker_of_joblib_takes_a_model() -> None:
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    model = Sentiment(threads=1)
    results = joblib.Parallel(2)(joblib.delayed(_label)(model, text) for text in ["great film", "dull film"])
    assert os.getpid() not in {process for process, _ in results}
    assert [result for _, result in results] == [model("great film"), model("dull film")]


RAY = """
import edge_imdb, os, ray
ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)

@ray.remote
class Actor:
    def __init__(self, model):
        self.model = model

    def label(self, text):
        return os.getpid(), self.model(text)

model = edge_imdb.Sentiment(threads=1)
process, result = ray.get(Actor.remote(model).label.remote("great film"), timeout=120)
assert process != os.getpid() and result == model("great film"), (process, result)
print("done")
"""


@pytest.mark.slow
def test_an_actor_of_ray_takes_a_model(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray isn't installed here: make test runs this test in .venv-ray")
    done = subprocess.run([sys.executable, "-c", RAY], capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert (done.returncode, done.stdout.split()[-1:]) == (0, ["done"]), done.stderr[-3000:]


def _threads() -> set[str]:
    return {path.name for path in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="this system has no /proc")
@pytest.mark.parametrize("kind", [kind for kind, _ in KINDS])
def test_a_with_block_ends_the_threads_of_its_model(kind: type[Any]) -> None:
    kind(threads=1)
    gc.collect()
    before = _threads()
    with kind(threads=4) as model:
        own = _threads() - before
        assert len(own) == 3
    # Threads of earlier tests may end meanwhile, so only these are looked at.
    assert not own & _threads()
    assert "closed" in repr(model)


@pytest.mark.parametrize(("kind", "text"), KINDS)
def test_a_closed_model_says_so(kind: type[Any], text: str) -> None:
    model = kind(threads=1)
    model.close()
    model.close()
    with pytest.raises(UsageError, match="was closed: make a new one"):
        model(text)
    assert pickle.loads(pickle.dumps(model))(text)


def test_a_repr_shows_bundle_graph_and_labels(tiny_bundle: Path) -> None:
    assert repr(Sentiment(threads=1)) == "<Sentiment embedded: int8 on CPUExecutionProvider; neg, pos>"
    assert repr(FillMask(threads=1)) == "<FillMask embedded: int8 on CPUExecutionProvider>"
    assert repr(Sentiment(tiny_bundle, precision="fp32")) == (
        f"<Sentiment {tiny_bundle}: fp32 on CPUExecutionProvider; neg, pos>"
    )
