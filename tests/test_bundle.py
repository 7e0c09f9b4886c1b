"""A bundle that was altered, cut short or made for something else is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import edit_manifest

from edge_imdb import Sentiment
from edge_imdb.errors import BundleError


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 2}, "newer"),
        ({"format": 0}, "'format' is 0"),
        ({"format": "1"}, "'format'"),
        ({"task": "fill-mask"}, "fill-mask bundle where a sentiment one"),
        ({"labels": ["pos"]}, "labels"),
        ({"labels": ["pos", "pos"]}, "labels"),
        ({"labels": ["neg", "so so", "pos"]}, "2 labels apart where its manifest names 3"),
        ({"truncation": {"strategy": "head+tail", "max_length": 1, "head_ratio": 0.5}}, "truncation"),
        ({"truncation": {"strategy": "tail", "max_length": 64, "head_ratio": 0.5}}, "strategy"),
        ({"calibration": {"temperature": 0}}, "temperature"),
        ({"calibration": {"temperature": float("nan")}}, "temperature"),
        ({"graphs": {}}, "graphs"),
        ({"graphs": {"int8": "onnx/other.onnx"}}, "graphs"),
        ({"files": {"../x": {"bytes": 1, "sha256": "0" * 64}}}, "leads out of the bundle"),
        ({"files": {"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, "leads out of the bundle"),
        ({"metrics": None}, "metrics"),
    ],
)
def test_wrong_manifest_is_refused(bundle: Path, changes: dict[str, object], words: str) -> None:
    edit_manifest(bundle, **changes)
    with pytest.raises(BundleError, match=words.replace("(", r"\(")):
        Sentiment(bundle)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b" " * (2 << 20)])
def test_manifest_that_is_no_json_object_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / "edge.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"edge\.json is not valid"):
        Sentiment(bundle)


@pytest.mark.parametrize("name", ["onnx/model_edge.onnx", "onnx/model_edge.onnx_data", "tokenizer.json"])
def test_altered_cut_or_missing_file_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match="bytes where"):
        Sentiment(bundle)
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(BundleError, match="sha256"):
        Sentiment(bundle)
    path.unlink()
    with pytest.raises(BundleError, match="can't be read"):
        Sentiment(bundle)


def test_weights_that_the_manifest_does_not_list_are_refused(bundle: Path) -> None:
    record = json.loads((bundle / "edge.json").read_text())
    del record["files"]["onnx/model_edge.onnx_data"]
    edit_manifest(bundle, files=record["files"])
    with pytest.raises(BundleError, match=r"doesn't list onnx/model_edge\.onnx_data"):
        Sentiment(bundle)


def test_symlink_out_of_the_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = bundle / "tokenizer.json"
    path.rename(tmp_path / "outside.json")
    path.symlink_to(tmp_path / "outside.json")
    with pytest.raises(BundleError, match="leads out"):
        Sentiment(bundle)


def test_run_folder_given_for_a_bundle_is_told_apart(tiny_run: Path) -> None:
    with pytest.raises(BundleError, match="edge-imdb export sentiment"):
        Sentiment(tiny_run)


def test_embedded_bundle_is_small_enough_and_says_nothing_of_its_machine() -> None:
    from edge_imdb.bundle import EMBEDDED, open_bundle

    bundle = open_bundle(EMBEDDED / "sentiment", "sentiment")
    for name in bundle.files:
        bundle.file(name)
    files = [path for path in bundle.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24 * 2**20
    assert {path.relative_to(bundle.path).as_posix() for path in files} == {*bundle.files, "edge.json"}
    for name in ("edge.json", "README.md", "config.json", "tokenizer_config.json"):
        assert "/work" not in (bundle.path / name).read_text() and "../" not in (bundle.path / name).read_text()
    assert json.loads((bundle.path / "edge.json").read_text())["metrics"]["validation_int8"]["accuracy"] > 0.9
