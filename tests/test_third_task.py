"""A third task is a folder and a line in the registry: the folder tests/third_task/topic, added here."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import write_csv

from edge_imdb import FillMask, score
from edge_imdb.cli.main import cli
from edge_imdb.errors import BundleError, UsageError
from edge_imdb.runtime.bundle import open_bundle
from edge_imdb.tasks import TASKS

# The words that decide a topic are in the vocabulary of the tiny checkpoint.
WORDS = {"cast": ["cast", "dialogue"], "sound": ["score", "music"], "story": ["plot", "script", "ending"]}


def sentences(count: int) -> list[tuple[str, str]]:
    """``count`` different sentences with their topic."""
    draw = random.Random(0)
    rows: dict[str, str] = {}
    while len(rows) < count:
        topic = draw.choice(sorted(WORDS))
        rows[f"I think the {draw.choice(WORDS[topic])} was {draw.choice(['great', 'dull'])}. {len(rows)} times."] = (
            topic
        )
    return list(rows.items())


@pytest.fixture(scope="module")
def registered() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(Path(__file__).parent / "third_task")
    patch.setitem(TASKS, "topic", "topic")  # type: ignore[arg-type]
    # These modules make their options from the registry when they are imported.
    for name in ("train", "export", "score", "info"):
        patch.delitem(sys.modules, f"edge_imdb.cli.{name}", raising=False)
    yield
    patch.undo()
    for name in ("train", "export", "score", "info"):
        sys.modules.pop(f"edge_imdb.cli.{name}", None)


@pytest.fixture(scope="module")
def bundle(registered: None, tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the task, from ``edge-imdb train topic`` and ``edge-imdb export topic``."""
    folder = tmp_path_factory.mktemp("topic")
    data = write_csv(folder / "train.csv", sentences(160))
    given = {
        "base": tiny_bert, "data": data, "output": folder / "runs", "max-length": 32, "epochs": 5, "batch-size": 16,
        "learning-rate": 3e-3, "validation": 0.2, "precision": "fp32",
    }  # fmt: skip
    run(["train", "topic", *(part for name, value in given.items() for part in (f"--{name}", str(value)))])
    run(["export", "topic", "--quantize", "--max-drop", "20", "--max-loss-rise", "1"]
        + ["--from", str(folder / "runs"), "--to", str(folder / "models")])  # fmt: skip
    return folder / "models" / "topic"


def run(arguments: list[str]) -> None:
    cli(arguments, standalone_mode=False)


def test_its_bundle_has_its_card_and_every_int8_graph_of_a_classifier(bundle: Path) -> None:
    opened = open_bundle(bundle, "topic")
    assert opened.labels == sorted(WORDS) and set(opened.graphs) == {"fp32", "int8", "explain", "batch"}
    card = (bundle / "README.md").read_text()
    assert 'Topic("path/of/this/folder")("The cast was good.")' in card and "pipeline_tag: text-classification" in card


def test_its_pipeline_labels_texts_and_other_pipelines_refuse_its_bundle(bundle: Path) -> None:
    from topic.pipeline import Topic

    with Topic(bundle) as topic:
        assert topic("I think the cast was dull.")[0]["label"] == "cast"
    with pytest.raises(BundleError, match="is a topic bundle, but a fill-mask bundle is needed"):
        FillMask(bundle)


def test_score_adds_its_columns_and_counts_its_labels(bundle: Path, tmp_path: Path) -> None:
    table = write_csv(tmp_path / "in.csv", [("I think the plot was great.", "1"), ("", "2")], ("text", "id"))
    summary = score(table, tmp_path / "out.jsonl", task="topic", model=bundle, digits=1)  # type: ignore[call-arg]
    assert summary.labels == {"story": 1} and summary.errors == 1
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["topic"] for row in rows] == ["story", None] and rows[0]["certainty"] in (0.9, 1.0)
    with pytest.raises(UsageError, match="--digits is for topic, and the task is sentiment"):
        score(table, tmp_path / "out.csv", digits=1)  # type: ignore[call-arg]


def test_the_command_line_has_it(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    table = write_csv(tmp_path / "in.csv", [("I think the score was great.", "1")], ("text", "id"))
    run(["score", str(table), "--output", str(tmp_path / "out.csv"), "--task", "topic", "--model", str(bundle)])
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "text,id,topic,certainty,error"
    monkeypatch.setenv("EDGE_IMDB_MODELS", str(bundle.parent))
    run(["info"])
    assert "reads 32 tokens of a sentence" in capsys.readouterr().out


def test_the_server_answers_on_its_endpoint(bundle: Path) -> None:
    from edge_imdb.serve.limits import Limits
    from edge_imdb.serve.run import ServeOptions, _bind, _Server
    from edge_imdb.serve.state import State

    options = ServeOptions(port=0, tasks=("topic",), models={"topic": bundle}, access_log=False)

    async def answers() -> list[Any]:
        listener = _bind(options)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = _Server(options, State(options.tasks, Limits()), listener)
        running = asyncio.create_task(server.serve([listener]))
        while not server.state.ready:
            assert not running.done()
            await asyncio.sleep(0.01)
        body = json.dumps({"inputs": ["I think the cast was great."]}).encode()
        found = [
            await asyncio.to_thread(fetch, url + path, sent)
            for path, sent in (("/models/topic", body), ("/", body), ("/info", None), ("/api-doc/openapi.json", None))
        ]
        server.should_exit = True
        await running
        assert server.state.work is not None
        server.state.work.close(1.0)
        return found

    named, root, info, document = asyncio.run(answers())
    assert named == root == [{"topic": "cast"}]
    assert info["model_type"] == {"topics": sorted(WORDS)}
    assert {"/models/topic", "/models/topic/info"} <= set(document["paths"]) and "/predict" not in document["paths"]


def fetch(url: str, body: bytes | None) -> Any:
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
        return json.load(answer)
