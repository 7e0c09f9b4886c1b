"""Damaged or malicious bundles are refused by name before inference, and nothing crashes."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import edit_manifest, make_reviews, renew_hashes
from onnx import TensorProto, helper

from edge_imdb import FillMask, Sentiment
from edge_imdb.errors import BundleError
from edge_imdb.runtime.external_data import check_external_data

GRAPH, DATA = "onnx/model_edge.pb", "onnx/model_quantized.onnx_data"
MUTATIONS = 500


@pytest.fixture
def bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def edit_graph(bundle: Path, change: object) -> None:
    """Change the int8 graph, and give the manifest its new hashes."""
    model = onnx.load(bundle / GRAPH, load_external_data=False)
    change(model)  # type: ignore[operator]
    onnx.save(model, bundle / GRAPH)
    renew_hashes(bundle)


def stored_outside(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.data_location == TensorProto.EXTERNAL)


def place(tensor: onnx.TensorProto, **entries: object) -> None:
    kept = {entry.key: entry.value for entry in tensor.external_data} | {k: str(v) for k, v in entries.items()}
    del tensor.external_data[:]
    for key, value in kept.items():
        tensor.external_data.add(key=key, value=value)


# --- weights from elsewhere


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "../bundle/tokenizer.json", "other", "", "."])
def test_weights_outside_the_bundle_are_refused(bundle: Path, location: str) -> None:
    (bundle / "secret").write_bytes(os.urandom(1 << 20))
    (bundle / "onnx" / "other").write_bytes(os.urandom(1 << 20))
    edit_graph(bundle, lambda model: place(stored_outside(model), location=location))
    with pytest.raises(BundleError, match="not from its own file"):
        Sentiment(bundle)


@pytest.mark.parametrize("where", ["a node's attribute", "a subgraph", "a function", "a sparse tensor"])
def test_weights_outside_are_found_wherever_a_tensor_can_stand(tmp_path: Path, where: str) -> None:
    tensor = TensorProto(dims=[4], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    place(tensor, location="../../secret")
    node = helper.make_node("Constant", [], ["x"], value=tensor)
    graph = helper.make_graph([], "g", [], [])
    model = helper.make_model(graph)
    if where == "a node's attribute":
        model.graph.node.append(node)
    elif where == "a subgraph":
        inner = helper.make_graph([node], "inner", [], [])
        model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner))
    elif where == "a function":
        model.functions.add(name="f", domain="d").node.append(node)
    else:
        model.graph.sparse_initializer.add(values=tensor)
    onnx.save(model, tmp_path / "graph.onnx")
    with pytest.raises(BundleError, match=r"takes weights from '\.\./\.\./secret'"):
        check_external_data(tmp_path / "graph.onnx", None)


@pytest.mark.parametrize("entries", [{"offset": 1 << 40}, {"length": 2 << 30}, {"offset": -8}, {"length": "x"}])
def test_weights_beyond_the_end_are_refused(bundle: Path, entries: dict[str, object]) -> None:
    """Weights that are mapped into memory beyond the end of a file would end the process with a bus error."""
    edit_graph(bundle, lambda model: place(stored_outside(model), **entries))
    with pytest.raises(BundleError, match=r"beyond the end|is not an ONNX graph"):
        Sentiment(bundle)


def test_a_place_that_is_named_twice_is_refused(bundle: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        stored_outside(model).external_data.add(key="location", value="../secret")

    edit_graph(bundle, change)
    with pytest.raises(BundleError, match="the same storage key twice"):
        Sentiment(bundle)


def test_an_entry_with_two_values_is_refused(bundle: Path) -> None:
    """Readers of protocol buffers use the last one. onnx can't write such an entry, so the test writes its bytes."""
    name = b"model_quantized.onnx_data"
    content = (bundle / GRAPH).read_bytes()
    entry = b"\x0a\x08location\x12" + bytes([len(name)]) + name
    assert entry in content
    with (bundle / GRAPH).open("wb") as file:
        # A second graph at the end of the model, which readers merge with the first.
        twice = entry + b"\x12\x09../secret"
        tensor = b"\x70\x01" + b"\x6a" + bytes([len(twice)]) + twice
        graph = b"\x2a" + bytes([len(tensor)]) + tensor
        file.write(content + b"\x3a" + bytes([len(graph)]) + graph)
    renew_hashes(bundle)
    with pytest.raises(BundleError, match="a storage entry has no key and value"):
        Sentiment(bundle)


def test_graphs_of_our_exports_and_of_others_pass(tiny_bundle: Path, fill_bundle: Path) -> None:
    for folder in (tiny_bundle, fill_bundle):
        check_external_data(folder / GRAPH, folder / DATA)
        check_external_data(folder / "onnx/model.onnx", None)


# --- other files


@pytest.fixture
def linked(bundle: Path) -> Callable[[str], Path]:
    """Replace a file of the bundle by a link to its content, which moves out of the bundle; returns the new path."""

    def link(name: str) -> Path:
        outside = bundle.parent / "outside"
        shutil.move(bundle / name, outside)
        (bundle / name).symlink_to(outside)
        return outside

    return link


LINKED = [GRAPH, DATA, "tokenizer.json", "config.json"]


@pytest.mark.parametrize("name", LINKED)
def test_a_link_to_the_listed_content_is_followed(bundle: Path, linked: Callable[[str], Path], name: str) -> None:
    before = Sentiment(bundle)("great film")
    linked(name)
    assert Sentiment(bundle)("great film") == before


@pytest.mark.parametrize("name", LINKED)
def test_a_link_to_content_of_another_hash_is_refused(bundle: Path, linked: Callable[[str], Path], name: str) -> None:
    outside = linked(name)
    content = outside.read_bytes()
    outside.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BundleError, match="doesn't match its sha256"):
        Sentiment(bundle)


@pytest.mark.parametrize("name", LINKED)
def test_a_link_to_content_of_another_size_is_refused(bundle: Path, linked: Callable[[str], Path], name: str) -> None:
    linked(name).write_bytes(b"another")
    with pytest.raises(BundleError, match=r"bytes, but edge\.json says"):
        Sentiment(bundle)


@pytest.mark.parametrize("where", ["tokenizer.json", "a file that isn't listed"])
def test_weights_are_refused_from_a_link_that_the_manifest_doesnt_list(bundle: Path, where: str) -> None:
    (bundle / "onnx" / "other").symlink_to(bundle / DATA if where == "tokenizer.json" else "/etc/passwd")
    edit_graph(bundle, lambda model: place(stored_outside(model), location="other"))
    with pytest.raises(BundleError, match="not from its own file"):
        Sentiment(bundle)


@pytest.mark.parametrize("name", [GRAPH, DATA, "tokenizer.json"])
def test_a_claim_of_2_gib_is_refused_at_once(bundle: Path, name: str) -> None:
    files = json.loads((bundle / "edge.json").read_text())["files"]
    files[name]["bytes"] = 2 << 30
    edit_manifest(bundle, files=files)
    with pytest.raises(BundleError, match=r"bytes, but edge\.json says"):
        Sentiment(bundle)


def test_a_graph_of_a_kilobyte_that_claims_2_gib_is_refused(bundle: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        huge = TensorProto(name="huge", dims=[1 << 29], data_type=TensorProto.FLOAT, raw_data=bytes(4))
        model.graph.initializer.append(huge)
        model.graph.node.append(helper.make_node("Identity", ["huge"], ["unused"]))

    edit_graph(bundle, change)
    with pytest.raises(BundleError, match="ONNX Runtime can't load"):
        Sentiment(bundle)


def test_a_graph_with_other_inputs_is_refused(bundle: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.INT64, ["batch"]))

    edit_graph(bundle, change)
    with pytest.raises(BundleError, match="inputs or outputs other than"):
        Sentiment(bundle)


def test_the_graph_of_the_other_task_is_refused(bundle: Path, fill_bundle: Path) -> None:
    for name in (GRAPH, DATA):
        shutil.copy(fill_bundle / name, bundle / name)
    renew_hashes(bundle)
    with pytest.raises(BundleError, match=r"has \d+ outputs, but its manifest lists 2 labels"):
        Sentiment(bundle)
    edit_manifest(bundle, task="fill-mask")
    with pytest.raises(BundleError, match="a fill-mask bundle, but a sentiment bundle is needed"):
        Sentiment(bundle)


def test_a_tokenizer_of_another_vocabulary_is_refused(bundle: Path) -> None:
    content = json.loads((bundle / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {f"word{n}": len(content["model"]["vocab"]) + n for n in range(7)}
    (bundle / "tokenizer.json").write_text(json.dumps(content))
    renew_hashes(bundle)
    with pytest.raises(BundleError, match=r"tokens, but .*config\.json has 'vocab_size'"):
        Sentiment(bundle)
    # If the config is wrong in the same way, the first such word gives an error of one sentence.
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps({**config, "vocab_size": 1 << 20}))
    renew_hashes(bundle)
    with pytest.raises(BundleError, match="can't read a text of"):
        Sentiment(bundle).probabilities("word6")


@pytest.mark.parametrize("config", [b"{", b"[]", b"{}", b'{"vocab_size": "many"}', b"\xff"])
def test_a_config_that_is_none_is_refused(bundle: Path, config: bytes) -> None:
    (bundle / "config.json").write_bytes(config)
    renew_hashes(bundle)
    with pytest.raises(BundleError, match=r"config\.json"):
        Sentiment(bundle)


def test_a_manifest_that_was_edited_is_refused(bundle: Path) -> None:
    text = (bundle / "edge.json").read_text()
    record = json.loads(text)
    (bundle / "edge.json").write_text(json.dumps({**record, "labels": record["labels"][::-1]}))
    with pytest.raises(BundleError, match="doesn't match its own 'sha256'"):
        Sentiment(bundle)
    # White space makes no difference.
    (bundle / "edge.json").write_text(json.dumps(record))
    Sentiment(bundle)


# --- mutations


def mutated(content: bytes, draw: random.Random) -> bytes:
    """A byte changed, a bit flipped, bytes cut out or put in, or the end cut off."""
    at = draw.randrange(len(content))
    kind = draw.randrange(5)
    if kind == 0:
        return content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
    if kind == 1:
        return content[:at] + bytes([content[at] ^ 1 << draw.randrange(8)]) + content[at + 1 :]
    if kind == 2:
        return content[:at] + content[at + draw.randint(1, 16) :]
    if kind == 3:
        return content[:at] + draw.randbytes(draw.randint(1, 16)) + content[at:]
    return content[:at]


def answers(folder: Path, task: str) -> list[list[float]]:
    if task == "sentiment":
        model = Sentiment(folder, provider="cpu", threads=1)
        return [model.probabilities(text).tolist() for text, _ in make_reviews(4, 3)]
    fill = FillMask(folder, provider="cpu", threads=1)
    return [[entry["score"] for entry in fill(f"{text} [MASK].")] for text, _ in make_reviews(4, 3)]


@pytest.mark.parametrize(("task", "name"), [("sentiment", "tiny_bundle"), ("fill-mask", "fill_bundle")])
def test_a_damaged_bundle_refuses_or_predicts_as_before(
    task: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """500 places over all files by their size, but more in the manifest, because it is small."""
    folder = Path(shutil.copytree(request.getfixturevalue(name), tmp_path / task))
    before = answers(folder, task)
    draw = random.Random(0)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    refused = 0
    for number in range(MUTATIONS // 2):
        path = folder / "edge.json" if number % 3 == 0 else paths[number % len(paths)]
        content = path.read_bytes()
        path.write_bytes(mutated(content, draw))
        try:
            assert answers(folder, task) == before, path
        except BundleError as error:
            refused += 1
            assert str(folder) in str(error)
        finally:
            path.write_bytes(content)
    print(f"{task}: {refused} of {MUTATIONS // 2} damaged bundles refused, the others predicted as before")
    assert refused > MUTATIONS // 8 and answers(folder, task) == before


HOSTILE = """
import json, random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from conftest import renew_hashes
from test_hostile_bundles import answers, mutated
from edge_imdb.errors import EdgeImdbError
folder = Path(sys.argv[2])
names = ["tokenizer.json", "config.json", "onnx/model_edge.pb", "onnx/model_quantized.onnx_data"]
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    path = folder / names[number % len(names)]
    content = path.read_bytes()
    path.write_bytes(mutated(content, random.Random(number)))
    renew_hashes(folder)
    print(number, path.name, flush=True)
    try:
        answers(folder, "sentiment")
    except EdgeImdbError:
        pass
    path.write_bytes(content)
    renew_hashes(folder)
"""


@pytest.mark.slow
def test_a_bundle_that_was_damaged_and_sealed_again_never_crashes(tiny_bundle: Path, tmp_path: Path) -> None:
    """Somebody who renews the hashes passes that check, but still only gets our errors."""
    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", HOSTILE, here, str(folder), "0", "200"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, (done.stdout.splitlines()[-1:], done.stderr[-3000:])


def test_scores_of_a_mutated_graph_are_still_numbers_or_refused(bundle: Path) -> None:
    """A scale that is not a number gives scores that are not numbers."""

    def change(model: onnx.ModelProto) -> None:
        bias = next(t for t in model.graph.initializer if t.name == "classifier.bias")
        bias.CopyFrom(onnx.numpy_helper.from_array(np.full(2, np.nan, dtype=np.float32), bias.name))

    edit_graph(bundle, change)
    with pytest.raises(BundleError, match="not numbers"):
        Sentiment(bundle)("great film")
