"""A bundle that was altered, truncated or made for something else is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import edit_manifest

from edge_imdb import Sentiment
from edge_imdb.errors import BundleError
from edge_imdb.runtime.bundle import WEIGHTS, sha256


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": 3}, "newer than 2: upgrade"),
        ({"format": 1}, "older than 2: export it again"),
        ({"format": "1"}, "'format'"),
        ({"task": "fill-mask"}, "a fill-mask bundle, but a sentiment bundle is needed"),
        ({"labels": ["pos"]}, "labels"),
        ({"labels": ["pos", "pos"]}, "labels"),
        ({"labels": ["neg", "so so", "pos"]}, "has 2 outputs, but its manifest lists 3 labels"),
        ({"truncation": {"strategy": "head+tail", "max_length": 1, "head_ratio": 0.5}}, "truncation"),
        ({"truncation": {"strategy": "tail", "max_length": 64, "head_ratio": 0.5}}, "strategy"),
        ({"calibration": {"temperature": 0}}, "temperature"),
        ({"calibration": {"temperature": float("nan")}}, "temperature"),
        ({"graphs": {}}, "graphs"),
        ({"graphs": {"int8": "onnx/other.onnx"}}, "graphs"),
        ({"files": {"../x": {"bytes": 1, "sha256": "0" * 64}}}, "points outside the bundle"),
        ({"files": {"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}}, "points outside the bundle"),
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


@pytest.mark.parametrize("name", ["onnx/model_edge.pb", "onnx/model_quantized.onnx_data", "tokenizer.json"])
def test_altered_cut_or_missing_file_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(BundleError, match=r"bytes, but edge\.json says"):
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
    del record["files"]["onnx/model_quantized.onnx_data"]
    edit_manifest(bundle, files=record["files"])
    with pytest.raises(BundleError, match=r"doesn't list onnx/model_quantized\.onnx_data"):
        Sentiment(bundle)


def linked(bundle: Path, store: Path) -> Path:
    """The bundle as the Hub's cache has it: every file a link, to a store where they lie by their hashes."""
    for path in [path for path in bundle.rglob("*") if path.is_file()]:
        blob = store / sha256(path)
        shutil.move(path, blob)
        path.symlink_to(blob)
    return bundle


@pytest.fixture(params=["this disk", "another disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "this disk":
        (tmp_path / "store").mkdir()
        yield tmp_path / "store"
        return
    if not Path("/dev/shm").is_dir() or Path("/dev/shm").stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_bundle_of_links_gives_the_same_results(tiny_bundle: Path, bundle: Path, store: Path, precision: str) -> None:
    text = "the film was great"
    assert Sentiment(linked(bundle, store), precision=precision)(text) == Sentiment(tiny_bundle, precision=precision)(
        text
    )


def test_a_link_to_a_bundle_is_followed(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(bundle, target_is_directory=True)
    assert Sentiment(tmp_path / "link")("the film was great")


@pytest.mark.parametrize("name", ["edge.json", "config.json", "tokenizer.json", "onnx/model_edge.pb", WEIGHTS])
def test_a_link_that_leads_in_a_circle_or_nowhere_is_refused(bundle: Path, name: str) -> None:
    path = bundle / name
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(BundleError, match=f"{path.name}"):
        Sentiment(bundle)
    path.unlink()
    path.symlink_to("nowhere")
    with pytest.raises(BundleError, match=f"{path.name}"):
        Sentiment(bundle)


def test_a_folder_that_leads_in_a_circle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(BundleError, match="loop"):
        Sentiment(tmp_path / "loop")


@pytest.mark.parametrize("name", ["edge.json", "config.json", "onnx/model_edge.pb"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_refused_at_once(bundle: Path, name: str, kind: str) -> None:
    """A pipe would be waited for, a device read without end."""
    path = bundle / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(BundleError, match=f"{path.name} is not a file"):
        Sentiment(bundle)


def test_run_folder_given_for_a_bundle_is_told_apart(tiny_run: Path) -> None:
    with pytest.raises(BundleError, match="edge-imdb export sentiment"):
        Sentiment(tiny_run)


def test_embedded_bundle_is_small_enough_and_says_nothing_of_its_machine() -> None:
    from edge_imdb.runtime.bundle import EMBEDDED, open_bundle

    bundle = open_bundle(EMBEDDED / "sentiment", "sentiment")
    for name in bundle.files:
        bundle.file(name)
    files = [path for path in bundle.path.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24 * 2**20
    assert {path.relative_to(bundle.path).as_posix() for path in files} == {*bundle.files, "edge.json"}
    for name in ("edge.json", "README.md", "config.json", "tokenizer_config.json"):
        assert "/work" not in (bundle.path / name).read_text() and "../" not in (bundle.path / name).read_text()
    assert json.loads((bundle.path / "edge.json").read_text())["metrics"]["validation_int8"]["accuracy"] > 0.9
