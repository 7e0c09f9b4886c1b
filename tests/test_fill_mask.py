"""Words for [MASK]: transformers' results, the edge graph, several masks together, long texts, wrong input."""

from __future__ import annotations

import itertools
import json
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import edit_manifest, make_reviews, run_command
from onnx import numpy_helper

from edge_imdb import FillMask
from edge_imdb.errors import BundleError, DataError, GateError, InputError, UsageError
from edge_imdb.tasks.fill_mask.pipeline import windows

ONE = "I think the [MASK] was great."
TWO = "I think the [MASK] was [MASK]. In the end the cast was dull."


@pytest.fixture(scope="module")
def fp32(fill_bundle: Path) -> FillMask:
    return FillMask(fill_bundle, precision="fp32")


@pytest.fixture(scope="module")
def int8(fill_bundle: Path) -> FillMask:
    return FillMask(fill_bundle)


@pytest.fixture(scope="module")
def embedded() -> FillMask:
    return FillMask()


# --- transformers' results


@pytest.mark.parametrize("inputs", [ONE, TWO, [ONE], [ONE, ONE.upper().replace("[mask]", "[MASK]")], [TWO, ONE], [TWO]])
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 3}, {"targets": ["film", "plot", "plot"]}, {"targets": "cast", "top_k": 4}]
)
def test_results_are_those_of_a_transformers_pipeline(
    fp32: FillMask, fill_run: Path, inputs: str | list[str], options: dict[str, object]
) -> None:
    from transformers import pipeline

    theirs = pipeline("fill-mask", model=str(fill_run), device="cpu")
    assert _rounded(fp32(inputs, **options)) == _rounded(theirs(inputs, **options))


def _rounded(result: object) -> object:
    if isinstance(result, list):
        return [_rounded(entry) for entry in result]
    assert isinstance(result, dict)
    return {**result, "score": round(result["score"], 4)}


def test_optimum_loads_the_fp32_graph_and_agrees(fp32: FillMask, fill_bundle: Path) -> None:
    import torch
    from optimum.onnxruntime import ORTModelForMaskedLM
    from transformers import AutoTokenizer

    theirs = ORTModelForMaskedLM.from_pretrained(fill_bundle, subfolder="onnx", file_name="model.onnx")
    tokenizer = AutoTokenizer.from_pretrained(fill_bundle)
    batch = tokenizer([ONE, TWO], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**batch).logits.numpy()
    assert logits.shape == (*batch["input_ids"].shape, len(tokenizer))
    for row, text in enumerate((ONE, TWO)):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()].numpy()
        expected = logits[row, : len(ids)][ids == tokenizer.mask_token_id]
        np.testing.assert_allclose(fp32.logits(ids), expected, atol=1e-4, err_msg=text)


def test_results_do_not_depend_on_the_neighbours(int8: FillMask) -> None:
    texts = [text.replace("the", "[MASK]") for text, _ in make_reviews(32, seed=8)]
    assert int8(texts) == [int8(text) for text in texts]


def test_no_mask_gives_no_rows(fp32: FillMask, int8: FillMask) -> None:
    assert fp32.logits([2, 5, 3]).shape == int8.logits([2, 5, 3]).shape == (0, fp32.tokenizer.get_vocab_size())


def test_a_text_is_cleaned_as_in_training(int8: FillMask) -> None:
    assert int8("I think<br />the [MASK] was &quot;great&quot;.") == int8('I think the [MASK] was "great".')


# --- the edge graph


def test_int8_is_close_to_fp32(fp32: FillMask, int8: FillMask) -> None:
    for text, _ in make_reviews(20, seed=4):
        ids = fp32.tokenizer.encode(text.replace("was", "[MASK]")).ids
        exact, quantized = fp32.logits(ids), int8.logits(ids)
        assert np.abs(exact - quantized).max() < 0.05 * (exact.max() - exact.min())


def test_the_embedding_matrix_is_stored_once_in_int8(fill_bundle: Path) -> None:
    graph = onnx.load(fill_bundle / "onnx" / "model_edge.pb").graph
    sizes = {
        tensor.name: (int(np.prod(tensor.dims)), numpy_helper.to_array(tensor).dtype) for tensor in graph.initializer
    }
    config = json.loads((fill_bundle / "config.json").read_text())
    large = [entry for entry in sizes.values() if entry[0] >= config["vocab_size"] * config["dim"]]
    assert large == [(config["vocab_size"] * config["dim"], np.dtype(np.int8))]
    name = next(name for name, entry in sizes.items() if entry in large)
    assert {node.op_type for node in graph.node if name in node.input} == {"Gather", "QGemm"}


def test_gate_refuses_int8_that_raises_perplexity(
    fill_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_imdb.edge_graph import builder
    from edge_imdb.export.options import ExportOptions
    from edge_imdb.export.pipeline import export_run

    def crude(matrix: np.ndarray, bits: int = 8) -> tuple[np.ndarray, np.ndarray]:
        scale = np.abs(matrix).max(axis=1, keepdims=True).astype(np.float32)
        return np.sign(matrix).astype(np.int8), scale

    monkeypatch.setattr(builder, "quantize_rows", crude)
    with pytest.raises(GateError, match=r"int8 raises perplexity .* by \d+\.\d+ %"):
        export_run("fill-mask", fill_run, tmp_path / "models" / "fill-mask", ExportOptions(quantize=True))
    assert list((tmp_path / "models").iterdir()) == []


def test_fp32_gate_refuses_a_graph_of_other_weights(
    fill_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_imdb.export import pipeline
    from edge_imdb.export.pipeline import export_run

    monkeypatch.setattr(pipeline, "TOLERANCE", 1e-12)
    with pytest.raises(GateError, match="fp32 graph's logits differ"):
        export_run("fill-mask", fill_run, tmp_path / "models" / "fill-mask")
    assert list((tmp_path / "models").iterdir()) == []


def test_evaluation_agrees_with_training(fp32: FillMask, fill_run: Path, reviews_csv: tuple[Path, Path]) -> None:
    from edge_imdb.data.datasets import read_texts
    from edge_imdb.tasks.fill_mask.figures import evaluate_fill_mask

    got = evaluate_fill_mask(fp32, read_texts(str(reviews_csv[1]), "test"))
    expected = json.loads((fill_run / "metrics.json").read_text())["test"]
    assert got["tokens"] == expected["tokens"]
    for name in ("perplexity", "top1", "top5"):
        assert got[name] == pytest.approx(expected[name], rel=1e-4)


def test_evaluation_of_next_to_no_text_is_refused(fp32: FillMask) -> None:
    from edge_imdb.tasks.fill_mask.figures import evaluate_fill_mask

    with pytest.raises(DataError, match="No word was masked"):
        evaluate_fill_mask(fp32, ["good"])


# --- several masks together


def test_joint_finds_what_trying_every_pair_finds(fp32: FillMask) -> None:
    words = ["film", "plot", "great", "dull", "cast", "moving"]
    result = fp32(TWO, joint=True, targets=words, top_k=36, beams=36)
    tokens = [fp32.tokenizer.token_to_id(word) for word in words]
    ids = fp32.tokenizer.encode(TWO).ids
    mask = fp32.tokenizer.token_to_id("[MASK]")
    places = [i for i, token in enumerate(ids) if token == mask]
    expected = {}
    for pair in itertools.product(tokens, tokens):
        total = 0.0
        for number in (0, 1):
            row = list(ids)
            row[places[1 - number]] = pair[1 - number]
            logits = fp32.logits(row)[0].astype(float)
            total += logits[pair[number]] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
        expected[pair] = total
    assert [tuple(entry["tokens"]) for entry in result] == sorted(expected, key=lambda pair: -expected[pair])
    for entry in result:
        assert entry["score"] == pytest.approx(expected[tuple(entry["tokens"])], abs=1e-6)


def as_decoded(text: str) -> str:
    """A text as the tokenizer's decoder spells it: no space before a mark, which may be what fills the gap."""
    return re.sub(r" (?=[.,!?])", "", text)


def test_joint_returns_whole_sentences_best_first(int8: FillMask) -> None:
    result = int8(TWO, joint=True, top_k=4)
    assert len(result) == 4
    scores = [entry["score"] for entry in result]
    assert scores == sorted(scores, reverse=True) and scores[0] <= 0
    first = result[0]
    filled = f"i think the {first['token_strs'][0]} was {first['token_strs'][1]}. in the end the cast was dull."
    assert first["sequence"] == as_decoded(filled)
    assert int8([TWO, ONE], joint=True, top_k=4)[0] == result


def test_joint_of_one_mask_ranks_as_without(int8: FillMask) -> None:
    together, alone = int8(ONE, joint=True), int8(ONE)
    assert [entry["tokens"] for entry in together] == [[entry["token"]] for entry in alone]
    np.testing.assert_allclose(np.exp([e["score"] for e in together]), [e["score"] for e in alone], rtol=1e-9)


# --- texts longer than the model reads


@pytest.mark.parametrize(
    ("length", "masks", "size", "expected"),
    [
        (10, [3], 62, [(0, 10)]),
        (100, [0], 10, [(0, 10)]),
        (100, [99], 10, [(90, 100)]),
        (100, [50], 10, [(45, 55)]),
        (100, [50, 55], 10, [(48, 58)]),
        (100, [50, 59], 10, [(50, 60)]),
        (100, [50, 60], 10, [(45, 55), (55, 65)]),
        (100, [0, 1, 50, 99], 10, [(0, 10), (45, 55), (90, 100)]),
    ],
)
def test_windows(length: int, masks: list[int], size: int, expected: list[tuple[int, int]]) -> None:
    got = windows(length, masks, size)
    assert got == expected
    assert all(any(start <= mask < stop for start, stop in got) for mask in masks)


def test_each_mask_is_filled_once_where_windows_overlap(int8: FillMask) -> None:
    words = ["great", "film"] * 52
    for place in (0, 55, 100):
        words[place] = "[MASK]"
    found = int8(" ".join(words))
    alone = [int8(" ".join(words[:62])), int8(" ".join(words[42:]))]
    tokens = [[[entry["token"] for entry in mask] for mask in result] for result in (found, *alone)]
    assert len(found) == 3
    assert tokens[0] == [*tokens[1], tokens[2][1]]


@pytest.mark.parametrize("place", [0, 7, 150, 299])
def test_a_long_text_keeps_the_window_around_its_mask(int8: FillMask, place: int) -> None:
    words = ["great", "film"] * 150
    words[place] = "[MASK]"
    result = int8(" ".join(words))
    start = max(0, min(place - 31, 300 - 62))
    assert [entry["token"] for entry in result] == [e["token"] for e in int8(" ".join(words[start : start + 62]))]
    filled = list(words)
    filled[place] = result[0]["token_str"]
    assert result[0]["sequence"] == as_decoded(" ".join(filled))


def test_masks_far_apart_get_a_window_each(int8: FillMask) -> None:
    words = ["great", "film"] * 150
    words[3] = words[5] = words[200] = "[MASK]"
    result = int8(" ".join(words))
    assert len(result) == 3 and all(len(entries) == 5 for entries in result)
    single = int8(" ".join(words[200 - 31 : 200 + 31]))
    assert [entry["token"] for entry in result[2]] == [entry["token"] for entry in single]


# --- targets


def test_targets_may_be_any_single_tokens_and_count_once(fp32: FillMask) -> None:
    assert [e["token_str"] for e in fp32(ONE, targets=["Film", "film", "plot"])] in (["film", "plot"], ["plot", "film"])


def test_thirty_thousand_targets_cost_no_more_than_none(embedded: FillMask) -> None:
    text = "This is a great [MASK]!"
    every = [word for word in embedded.tokenizer.get_vocab() if not word.startswith("[")][:29_000]
    embedded(text, targets=every)

    def seconds(**options: object) -> float:
        times = []
        for _ in range(15):
            start = time.perf_counter()
            embedded(text, **options)
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    # A dozen times the cost of the lookups, if they were repeated at each call.
    assert seconds(targets=every) < 1.5 * seconds() + 0.005


# --- wrong input


@pytest.mark.parametrize(
    ("text", "options", "kind", "words"),
    [
        ("no mask here", {}, InputError, r"no \[MASK\]"),
        ("", {}, InputError, r"inputs\[0\]: The text is blank"),
        (3, {}, InputError, r"inputs\[0\]: A text is needed, not int"),
        (ONE, {"top_k": 0}, UsageError, "top_k is 0"),
        (ONE, {"top_k": True}, UsageError, "top_k is True"),
        (ONE, {"beams": 0}, UsageError, "beams is 0"),
        (ONE, {"targets": []}, UsageError, "targets has no word"),
        (ONE, {"targets": [7]}, UsageError, "The target 7 is not a str"),
        ("[MASK] " * 9, {"joint": True}, InputError, "9 masks, and joint can fill at most 8"),
        ("[MASK]" + " film" * 80 + " [MASK]", {"joint": True}, InputError, "further apart than the 64 tokens"),
    ],
)
def test_wrong_input_is_refused_with_its_reason(
    int8: FillMask, text: object, options: dict[str, object], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        int8([text], **options)  # type: ignore[list-item]


def test_top_k_may_be_more_than_there_are_words(int8: FillMask) -> None:
    words = int8.tokenizer.get_vocab_size()
    assert len(int8(ONE, top_k=10**6)) == words
    assert len(int8(ONE, top_k=10**6, targets=["film", "plot"])) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "sentiment"}, "a sentiment bundle, but a fill-mask bundle is needed"),
        ({"truncation": {"strategy": "head+tail", "max_length": 64, "head_ratio": 0.5}}, "strategy"),
        ({"truncation": {"strategy": "window", "max_length": 0}}, "truncation"),
        ({"graphs": {"int8": "onnx/other.onnx"}}, "graphs"),
    ],
)
def test_wrong_manifest_is_refused(fill_bundle: Path, tmp_path: Path, changes: dict[str, object], words: str) -> None:
    import shutil

    folder = Path(shutil.copytree(fill_bundle, tmp_path / "bundle"))
    edit_manifest(folder, **changes)
    with pytest.raises(BundleError, match=words):
        FillMask(folder)


def test_a_tokenizer_of_another_vocabulary_is_refused(
    fill_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    from edge_imdb.runtime.bundle import EMBEDDED, sha256

    folder = Path(shutil.copytree(fill_bundle, tmp_path / "bundle"))
    shutil.copy(EMBEDDED / "sentiment" / "tokenizer.json", folder / "tokenizer.json")
    manifest = json.loads((folder / "edge.json").read_text())
    path = folder / "tokenizer.json"
    manifest["files"]["tokenizer.json"] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    edit_manifest(folder, files=manifest["files"])
    with pytest.raises(BundleError, match=r"tokens, but .*config\.json has 'vocab_size'"):
        FillMask(folder)


# --- the embedded bundle


@pytest.mark.parametrize("text", ["This is a great [MASK]!", "What a wonderful [MASK]."])
def test_the_embedded_bundle_talks_of_films(embedded: FillMask, text: str) -> None:
    assert embedded(text)[0]["token_str"] in ("film", "movie")


def test_the_embedded_bundle_is_small_and_its_perplexity_is_known(embedded: FillMask) -> None:
    assert sum(file["bytes"] for file in embedded.bundle.files.values()) < 24 * 2**20
    assert embedded.bundle.metrics["validation_int8"]["perplexity"] < 45
    ratio = (
        embedded.bundle.metrics["validation_int8"]["perplexity"]
        / embedded.bundle.metrics["validation_fp32"]["perplexity"]
    )
    assert ratio < 1.03


# --- the command line


def test_fill_prints_sentences_and_scores(command: Callable[..., object]) -> None:
    result = run_command("fill", "This is a great [MASK]!")
    assert result.returncode == 0, result.stderr
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert len(lines) == 5 and lines[0][0] in ("this is a great film!", "this is a great movie!")
    scores = [float(score) for _, score in lines]
    assert scores == sorted(scores, reverse=True) and 0 < scores[0] < 1


def test_fill_prints_a_word_a_mask_or_whole_sentences() -> None:
    text = "[MASK] [MASK] gave the performance of his life."
    lines = [line.split("\t") for line in run_command("fill", text, "--top-k", 2).stdout.splitlines()]
    assert [line[0] for line in lines] == ["1", "1", "2", "2"]
    joint = run_command("fill", text, "--joint", "--top-k", 3).stdout.splitlines()
    assert len(joint) == 3 and all("gave the performance of his life.\t-" in line for line in joint)


def test_fill_prints_json_a_line_and_reads_files(tmp_path: Path) -> None:
    (tmp_path / "texts.csv").write_text("body\nA great [MASK].\nA [MASK] plot.\n")
    result = run_command(
        "fill", "--file", "texts.csv", "--column", "body", "--json", "--targets", "film,thin", cwd=tmp_path
    )
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert [record["text"] for record in records] == ["A great [MASK].", "A [MASK] plot."]
    assert [record["fills"][0]["token_str"] for record in records] == ["film", "thin"]
    assert records == [
        json.loads(line)
        for line in run_command(
            "fill", "-", "--json", "--targets", "film, thin", input="A great [MASK].\nA [MASK] plot.\n"
        ).stdout.splitlines()
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["a text"], 1, "The text has no [MASK]"),
        (["A [MASK].", "a text"], 1, "text 2: The text has no [MASK]"),
        (["[MASK] " * 9, "--joint"], 1, "9 masks"),
        (["A [MASK].", "--targets", "film,qqqqqq"], 0, "'qqqqqq' is not in the vocabulary: using its first word piece"),
        (["A [MASK].", "--targets", ","], 2, "targets has no word to choose from"),
        (["A [MASK].", "--top-k", "0"], 2, "--top-k"),
        ([], 2, "edge-imdb fill"),
        (["A [MASK].", "--model", "SENTIMENT"], 1, "is a sentiment bundle, but a fill-mask bundle is needed"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], code: int, words: str) -> None:
    from edge_imdb.runtime.bundle import EMBEDDED

    given = [str(EMBEDDED / "sentiment") if argument == "SENTIMENT" else argument for argument in arguments]
    result = run_command("fill", *given)
    assert result.returncode == code and words in result.stderr and "Traceback" not in result.stderr
    assert result.stdout.count("\n") <= 5


def test_evaluate_prints_perplexity_and_accuracy(fill_bundle: Path, reviews_csv: tuple[Path, Path]) -> None:
    arguments = ("evaluate", "fill-mask", "--data", reviews_csv[1], "--model", fill_bundle)
    shown = run_command(*arguments).stdout
    record = json.loads(run_command(*arguments, "--json").stdout)
    assert f"perplexity         {record['perplexity']:.2f}\n" in shown
    assert f"top-5 accuracy     {100 * record['top5']:.2f} %\n" in shown
    assert record["precision"] == "int8" and 0 < record["top1"] < record["top5"] < 1
    limited = json.loads(run_command(*arguments, "--json", "--limit", 20).stdout)
    assert limited["tokens"] < record["tokens"]
