"""The default path, Hub ids and no files: against a Hub of our own on the loopback interface."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_reviews, run_command
from fake_hub import environment_of, serving
from killing import CommandServer

from edge_imdb.runtime.hub import go_offline_if_unreachable

pytest.importorskip("datasets", reason="datasets is not installed")


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[tuple[Path, CommandServer]]:
    """The Hub's root, and a server of commands whose libraries look for the Hub there."""
    import pyarrow
    import pyarrow.parquet

    folder = tmp_path_factory.mktemp("hub")
    root = folder / "hub"
    model = root / "models" / "distilbert" / "distilbert-base-uncased"
    model.mkdir(parents=True)
    for path in tiny_bert.iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    data = root / "datasets" / "stanfordnlp" / "imdb"
    (data / "plain_text").mkdir(parents=True)
    configs = "configs:\n- config_name: plain_text\n  data_files:\n"
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": {"names": ["neg", "pos"], "_type": "ClassLabel"},
    }
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    for seed, split in enumerate(("train", "test")):
        rows = make_reviews(120, seed)
        labels = pyarrow.array([("neg", "pos").index(label) for _, label in rows])
        table = pyarrow.table({"text": [text for text, _ in rows], "label": labels})
        name = f"plain_text/{split}-00000-of-00001.parquet"
        pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), data / name)
        configs += f"  - split: {split}\n    path: plain_text/{split}-*\n"
    (data / "README.md").write_text(f"---\n{configs}---\n")
    with serving(root) as server:
        commands = CommandServer(folder, environment=environment_of(server, folder / "home"))
        yield root, commands
        commands.close()


SHORT = ["--max-length", "64", "--epochs", "1", "--validation", "0.2"]


@pytest.mark.slow
def test_train_with_the_hubs_names_downloads_trains_and_uploads(
    hub: tuple[Path, CommandServer], tmp_path: Path
) -> None:
    root, commands = hub
    result = commands.command("train", "sentiment", *SHORT, "--push-to-hub", "me/mine", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "reviews: 96 train, 24 validation, 120 test" in result.stderr
    uploaded = {path.name for path in (root / "models" / "me" / "mine").rglob("*")}
    assert {"model.safetensors", "README.md", "tokenizer.json", "metrics.json"} <= uploaded
    assert "run.json" not in uploaded
    card = (root / "models" / "me" / "mine" / "README.md").read_text()
    assert "base_model: distilbert/distilbert-base-uncased" in card and "- stanfordnlp/imdb" in card


@pytest.mark.slow
def test_a_failed_upload_keeps_the_run(hub: tuple[Path, CommandServer], tmp_path: Path) -> None:
    _, commands = hub
    result = commands.command("train", "sentiment", *SHORT, "--push-to-hub", "me/full", cwd=tmp_path)
    assert result.returncode == 1 and "is complete: log in" in result.stderr and "Traceback" not in result.stderr
    assert "edge-imdb push runs/sentiment me/full" in result.stderr
    assert (tmp_path / "runs" / "sentiment" / "model.safetensors").exists()


@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
@pytest.mark.parametrize(
    ("repository", "changes", "code", "words"),
    [
        ("not a name", {}, 2, "'not a name' is not the name of a Hub repository"),
        ("me/mine", {"HF_TOKEN": "hf_wrong"}, 1, "log in with `hf auth login`"),
        ("me/mine", {"HF_TOKEN": ""}, 1, "log in with `hf auth login`"),
        ("me/mine", {"HF_TOKEN": "hf_read"}, 1, "is read-only"),
        ("others/mine", {}, 1, "upload to one of me, ours"),
    ],
)
def test_that_nothing_can_be_uploaded_is_said_before_the_training(
    hub: tuple[Path, CommandServer],
    tmp_path: Path,
    task: str,
    repository: str,
    changes: dict[str, str],
    code: int,
    words: str,
) -> None:
    result = hub[1].command("train", task, "--push-to-hub", repository, cwd=tmp_path, env=changes)
    assert result.returncode == code and words in result.stderr and "Traceback" not in result.stderr, result.stderr
    assert not (tmp_path / "runs").exists()


def test_an_upload_without_a_network_is_refused_before_the_training(
    hub: tuple[Path, CommandServer], tmp_path: Path
) -> None:
    nowhere = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    base, data = (
        hub[0] / "models" / "distilbert" / "distilbert-base-uncased",
        hub[0] / "datasets" / "stanfordnlp" / "imdb",
    )
    arguments = ["train", "sentiment", "--base", base, "--data", data, "--push-to-hub", "me/mine"]
    result = run_command(*arguments, cwd=tmp_path, env=nowhere)
    assert result.returncode == 1 and "check the network" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arguments", [["train", "sentiment"], ["evaluate"]])
def test_no_network_is_said_with_the_way_out(tmp_path: Path, arguments: list[str]) -> None:
    environment = {**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    result = run_command(*arguments, cwd=tmp_path, env=environment)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    message = result.stderr.strip().splitlines()[-1]
    assert message.startswith("Error: ") and "--base" in message and "--data" in message


@pytest.mark.parametrize(
    ("endpoint", "names", "offline"),
    [
        ("nobody", ["user/repo"], "1"),
        ("nobody", ["a.csv", "model"], "1"),
        ("nobody", ["."], "0"),
        ("answers 404", ["user/repo"], "0"),
        ("no address", ["user/repo"], "0"),
    ],
)
def test_hugging_faces_libraries_need_not_try_for_a_minute_without_a_network(
    endpoint: str, names: list[str], offline: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path) as server:
        addresses = {
            "nobody": "http://127.0.0.1:9",
            "answers 404": f"http://127.0.0.1:{server.server_port}/nothing",
            "no address": "nothing",
        }
        monkeypatch.setenv("HF_ENDPOINT", addresses[endpoint])
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        go_offline_if_unreachable(*names)
    assert os.environ["HF_HUB_OFFLINE"] == offline


@pytest.mark.slow
def test_unknown_names_on_the_hub_are_said(hub: tuple[Path, CommandServer], tmp_path: Path) -> None:
    _, commands = hub
    result = commands.command("train", "sentiment", "--base", "nobody/nothing", cwd=tmp_path)
    assert result.returncode == 1 and "nobody/nothing" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "runs" / "sentiment").exists()
