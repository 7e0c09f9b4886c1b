"""edge-imdb distil: from a classifier that isn't a DistilBERT and texts without labels to a bundle."""

from __future__ import annotations

import csv
import doctest
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from conftest import Shared, make_reviews, write_csv
from killing import CommandServer
from tiny_teachers import fine_tune, make_teacher

pytest.importorskip("torch", reason="PyTorch is not installed")

from edge_imdb import Sentiment
from edge_imdb.cli import distil as command
from edge_imdb.cli.distil import parts_of
from edge_imdb.cli.main import cli
from edge_imdb.errors import EdgeImdbError
from edge_imdb.runtime.bundle import EMBEDDED
from edge_imdb.tasks.sentiment.attribution import split_sentences
from edge_imdb.web.site import make_site

TRAINING = [
    "--max-length",
    "64",
    "--epochs",
    "4",
    "--batch-size",
    "16",
    "--learning-rate",
    "3e-3",
    "--precision",
    "fp32",
]


@pytest.fixture(scope="session")
def mpnet(shared: Shared) -> Path:
    """An MPNet that labels our reviews right."""
    return shared("taught-mpnet", lambda folder: fine_tune(make_teacher(folder, spread=0.1)))


@pytest.fixture(scope="session")
def untaught(shared: Shared) -> Path:
    """The same with random weights."""
    return shared("untaught-mpnet", make_teacher)


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """A folder of texts without labels, of two kinds, with a copy and a blank text."""
    folder = tmp_path / "texts"
    folder.mkdir()
    found = [text for text, _ in make_reviews(240, 50)]
    write_csv(folder / "one.csv", [(text, "x") for text in [*found[:120], found[0], ""]], ("text", "note"))
    (folder / "two.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in found[120:]))
    return folder


def arguments_of(teacher: Path, texts: Path, base: Path, root: Path, *more: object) -> list[str]:
    fixed = ["--output", root / "models" / "sentiment", "--run", root / "run", "--base", base]
    limits = ["--max-drop", 10, "--max-loss-rise", 0.5]
    return [str(part) for part in ("distil", teacher, texts, *fixed, *limits, *TRAINING, *more)]


def run(arguments: list[str]) -> Result:
    return CliRunner().invoke(cli, arguments)


@pytest.mark.parametrize("module", [command])
def test_examples_in_docstrings(module: Any) -> None:
    done = doctest.testmod(module)
    assert done.attempted and not done.failed


def test_a_command_that_is_killed_three_times_ends_in_a_bundle_that_everything_uses(
    command_server: CommandServer, mpnet: Path, texts: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    arguments = arguments_of(mpnet, texts, tiny_bert, root, "--sentences", "--rows", tmp_path / "rows.csv")
    # While the teacher labels, while the student's first checkpoint is removed, and before the bundle gets its name.
    for step in ("run/labels/_manifest", "remove run/student/sentiment.partial/checkpoint-", "-> models/sentiment"):
        assert command_server.run_until(arguments, root, step) == -9, command_server.said
        assert not (root / "models" / "sentiment").exists()
    state = json.loads((root / "run" / "distil.json").read_text())
    assert list(state["steps"]) == ["texts", "labels", "held-labels", "train"]
    code, _ = command_server.run(arguments)
    said = command_server.said
    assert code == 0 and "continuing in" in said and "done: texts, labels, held-labels, train" in said, said
    steps = json.loads((root / "run" / "distil.json").read_text())["steps"]
    assert steps["texts"]["texts"] == steps["labels"]["rows"] > 300 and steps["texts"]["held"] >= 20
    assert steps["compare"]["agreement"] > 0.85
    assert "agreement with the teacher" in said and "student" in said and "ms" in said

    bundle = root / "models" / "sentiment"
    model = Sentiment(bundle)
    assert model.labels == ["neg", "pos"] and model.precision == "int8"
    assert model("In the end the film was great. My sister says the plot was superb.")[0]["label"] == "pos"
    assert run(["predict", "--model", str(bundle), "The film was great."]).exit_code == 0
    assert any(name.startswith("models/sentiment/") for name in make_site({"sentiment": bundle}).files)
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    distances = [float(row["difference"]) for row in rows]
    assert len(rows) == steps["compare"]["held"] and distances == sorted(distances, reverse=True)
    # No text on which they are compared was learnt from.
    from pyarrow import parquet

    learnt = set(parquet.read_table(root / "run" / "labels.parquet").column("text").to_pylist())
    assert not learnt & {row["text"] for row in rows}
    # Once more: nothing is done again.
    code, seconds = command_server.run(arguments[:-2])
    assert code == 0 and seconds < 20 and "agreement with the teacher" in command_server.said


def test_parts_of_a_text_are_sentences_and_a_passage_of_it() -> None:
    text = "I came early. The hall was very cold. The film was great, though. My sister left. We went home late!"
    sentences = split_sentences(text)
    assert len(sentences) == 5
    parts = parts_of(text)
    assert parts == parts_of(text) and len(parts) == 3
    assert set(parts[:2]) < set(sentences) and parts[2] in text and len(split_sentences(parts[2])) in (2, 3, 4)
    assert parts_of("Great. Really.") == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("unsafe", r"has no \.safetensors"),
        ("remote", "is not a classifier"),
        ("regression", "has one output, so it is a regression"),
        ("bundle", "is a bundle"),
        ("missing", "There is no folder"),
        ("few", "has 3 different texts: give at least 50"),
        ("labels", "The labels of --data are bad, good, but the teacher's are neg, pos"),
        ("foreign", "contains files that are not of a distil job"),
        ("rows", "--rows is rows.xlsx"),
    ],
)
def test_a_job_that_can_not_end_well_is_refused_before_it_begins(
    untaught: Path, texts: Path, tiny_bert: Path, tmp_path: Path, change: str, words: str
) -> None:
    teacher = Path(shutil.copytree(untaught, tmp_path / "teacher"))
    more: list[object] = []
    config = json.loads((teacher / "config.json").read_text())
    if change == "unsafe":
        (teacher / "model.safetensors").rename(teacher / "pytorch_model.bin")
    elif change == "remote":
        config |= {"architectures": ["Mine"], "auto_map": {"AutoModel": "mine.Mine"}}
    elif change == "regression":
        config["id2label"] = {"0": "LABEL_0"}
    elif change == "bundle":
        teacher = EMBEDDED / "sentiment"
    elif change == "missing":
        teacher = tmp_path / "nowhere"
    elif change == "few":
        texts = tmp_path / "few.txt"
        texts.write_text("A film.\nA plot.\nA cast.\nA film.\n")
    elif change == "labels":
        names = {"neg": "bad", "pos": "good"}
        data = write_csv(tmp_path / "data.csv", [(text, names[label]) for text, label in make_reviews(60, 3)])
        more = ["--data", data]
    elif change == "foreign":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "mine.txt").write_text("mine")
    elif change == "rows":
        more = ["--rows", "rows.xlsx"]
    if teacher.name == "teacher":
        (teacher / "config.json").write_text(json.dumps(config))
    done = run(arguments_of(teacher, texts, tiny_bert, tmp_path, *more))
    assert isinstance(done.exception, EdgeImdbError), done.output
    import re

    assert re.search(words, str(done.exception)), done.exception
    assert not (tmp_path / "run" / "labels").exists()


def test_a_job_whose_texts_or_options_changed_is_not_continued(
    untaught: Path, texts: Path, tiny_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        pass

    def stop(*arguments: object) -> None:
        raise Stop

    monkeypatch.setattr(command, "_label", stop)
    arguments = arguments_of(untaught, texts, tiny_bert, tmp_path)
    assert isinstance(run(arguments).exception, Stop)
    assert "has another job, whose temperature, epochs differ" in str(
        run([*arguments, "--temperature", "2", "--epochs", "1"]).exception
    )
    # What doesn't decide the student may change.
    assert isinstance(run([*arguments, "--max-drop", "20"]).exception, Stop)
    (texts / "two.jsonl").write_text(json.dumps({"text": "Another film."}) + "\n")
    assert "has another job, whose texts differ" in str(run(arguments).exception)
    assert isinstance(run([*arguments, "--overwrite"]).exception, Stop)


def test_an_existing_bundle_is_kept_unless_overwrite_is_given(
    untaught: Path, texts: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    shutil.copytree(EMBEDDED / "sentiment", tmp_path / "models" / "sentiment")
    done = run(arguments_of(untaught, texts, tiny_bert, tmp_path))
    assert "already contains a bundle: use --overwrite" in str(done.exception)
