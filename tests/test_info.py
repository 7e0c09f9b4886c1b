"""info: threads, length, language; ./models for commands and not for the library."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import edit_manifest, run_command

from edge_imdb import Sentiment
from edge_imdb.runtime.bundle import EMBEDDED
from edge_imdb.runtime.session import usable_cores


def test_info_tells_threads_length_and_language(tmp_path: Path) -> None:
    record = json.loads(run_command("info", "--json", cwd=tmp_path).stdout)
    assert record["threads"] == usable_cores()
    sentiment, fill_mask = record["bundles"]["sentiment"], record["bundles"]["fill-mask"]
    manifest = json.loads((EMBEDDED / "sentiment" / "edge.json").read_text())
    assert sentiment["max_length"] == manifest["truncation"]["max_length"]
    assert sentiment["token_dropping"] == manifest["token_dropping"]["kept"]
    assert sentiment["early_exit"] == manifest["early_exit"]["length"]
    assert fill_mask["early_exit"] is fill_mask["token_dropping"] is None
    assert sentiment["language"] == fill_mask["language"] == "English"
    shown = run_command("info", cwd=tmp_path).stdout
    kept = ", ".join(f"{share:.0%}" for share in manifest["token_dropping"]["kept"])
    longest = f"reads {sentiment['early_exit']} tokens, and up to {sentiment['max_length']}"
    assert f"{longest} if those don't give a sure label, of which {kept} are kept after its layers" in shown
    assert shown.count("made for English film reviews") == 2


def test_info_tells_where_a_bundle_exits_early(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED / "sentiment", tmp_path / "models" / "sentiment"))
    edit_manifest(folder, early_exit={"length": 192, "temperature": 1.3, "threshold": 0.6})
    sentiment = json.loads(run_command("info", "--json", cwd=tmp_path).stdout)["bundles"]["sentiment"]
    assert sentiment["early_exit"] == 192
    shown = run_command("info", cwd=tmp_path).stdout
    assert f"reads 192 tokens, and up to {sentiment['max_length']} if those don't give a sure label" in shown


def test_models_beside_a_program_are_for_commands_and_not_for_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "sentiment"
    folder.mkdir(parents=True)
    for path in (EMBEDDED / "sentiment").iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "edge.json").unlink()
    (folder / "edge.json").write_bytes((EMBEDDED / "sentiment" / "edge.json").read_bytes())
    edit_manifest(folder, labels=["bad", "good"])
    monkeypatch.chdir(tmp_path)
    assert Sentiment(threads=1)("great film")[0]["label"] == "pos"
    assert run_command("predict", "great film").stdout.startswith("good")
    record = json.loads(run_command("info", "--json").stdout)["bundles"]["sentiment"]
    # Nobody says what language it is for.
    assert record["why"] == "./models" and record["labels"] == ["bad", "good"] and record["language"] is None
