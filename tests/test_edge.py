"""The edge graph: each rewrite is exact; quantization, errors, early exits and sliding windows."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import edit_manifest, make_reviews, run_command, write_csv
from safetensors.numpy import load_file, save_file

from edge_imdb import Sentiment
from edge_imdb.data.datasets import Reviews
from edge_imdb.edge_graph.quantize import quantize_rows
from edge_imdb.edge_graph.targets import TARGETS, resolve_target
from edge_imdb.edge_graph.write import write_edge
from edge_imdb.errors import BundleError, GateError, InputError, UsageError
from edge_imdb.export.early_exit import lowest_threshold

MASK = 4


def open_graph(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def operators(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(path, load_external_data=False).graph.node]


def random_ids(words: int) -> list[np.ndarray]:
    """Texts of 3 to 64 tokens."""
    draw = np.random.default_rng(0)
    return [draw.integers(5, words, size=(1, draw.integers(3, 65))) for _ in range(30)]


# --- exact rewrites


# Without calibration texts each layer subtracts its largest scores; with them it has a bias of the keys instead.
CALIBRATIONS = pytest.mark.parametrize("calibration", [[], [[2, MASK, *range(5, 45), 3], [2, 9, MASK, 3]] * 8])


@CALIBRATIONS
def test_sentiment_logits_are_pytorchs(tiny_run: Path, tmp_path: Path, calibration: list[list[int]]) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    write_edge(tiny_run, tmp_path / "edge.onnx", "sentiment", bits=None, calibration=calibration)
    assert operators(tmp_path / "edge.onnx").count("ReduceMax") == (1 if calibration else 2)
    edge = open_graph(tmp_path / "edge.onnx")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_run).eval()
    for ids in random_ids(model.config.vocab_size):
        with torch.no_grad():
            expected = model(torch.from_numpy(ids)).logits.numpy()
        np.testing.assert_allclose(edge.run(None, {"input_ids": ids})[0], expected, atol=2e-5)


@CALIBRATIONS
def test_fill_mask_logits_are_pytorchs_at_the_masks(
    fill_run: Path, tmp_path: Path, calibration: list[list[int]]
) -> None:
    import torch
    from transformers import AutoModelForMaskedLM

    write_edge(fill_run, tmp_path / "edge.onnx", "fill-mask", mask_id=MASK, bits=None, calibration=calibration)
    edge = open_graph(tmp_path / "edge.onnx")
    model = AutoModelForMaskedLM.from_pretrained(fill_run).eval()
    draw = np.random.default_rng(1)
    for ids in random_ids(model.config.vocab_size):
        masks = draw.integers(1, min(6, ids.shape[1]))
        ids[0, draw.choice(ids.shape[1], masks, replace=False)] = MASK
        with torch.no_grad():
            expected = model(torch.from_numpy(ids)).logits.numpy()[ids == MASK]
        got = edge.run(None, {"input_ids": ids})[0]
        assert got.shape == (masks, model.config.vocab_size)
        np.testing.assert_allclose(got, expected, atol=5e-5)


def test_the_last_layer_has_no_keys_and_values_of_its_own(tiny_bundle: Path) -> None:
    """It multiplies the queries of one row by the keys' weights: heads rows, whatever the length."""
    model = onnx.load(tiny_bundle / "onnx" / "model_edge.pb")
    for name in ("1.sought", "1.value"):
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.save(model, tiny_bundle.parent / "shown.onnx")
    session = open_graph(tiny_bundle.parent / "shown.onnx")
    config = json.loads((tiny_bundle / "config.json").read_text())
    shapes = [value.shape for value in session.run(["1.sought", "1.value"], {"input_ids": np.full((1, 60), 9)})]
    assert shapes == [(1, config["n_heads"], config["dim"])] * 2


def test_several_texts_at_once_are_refused(tiny_bundle: Path) -> None:
    """Its attention would take them for one."""
    session = open_graph(tiny_bundle / "onnx" / "model_edge.pb")
    with pytest.raises(Exception, match="invalid dimensions"):
        session.run(None, {"input_ids": np.full((2, 9), 9)})


def with_weights(run: Path, checkpoint: dict[str, np.ndarray], target: Path) -> Path:
    """The run with other weights."""
    target.mkdir()
    shutil.copy(run / "config.json", target)
    save_file(checkpoint, target / "model.safetensors")
    return target


def test_scores_that_reach_far_keep_their_largest_subtracted(tiny_run: Path, tmp_path: Path) -> None:
    texts = [ids[0].tolist() for ids in random_ids(40)]
    checkpoint = load_file(tiny_run / "model.safetensors")
    checkpoint["distilbert.transformer.layer.0.attention.q_lin.weight"] *= 3e4
    far = with_weights(tiny_run, checkpoint, tmp_path / "far")
    write_edge(far, tmp_path / "far.onnx", "sentiment", calibration=texts)
    assert operators(tmp_path / "far.onnx").count("ReduceMax") == 2
    session = open_graph(tmp_path / "far.onnx")
    assert all(np.isfinite(session.run(None, {"input_ids": np.array([ids])})[0]).all() for ids in texts)


@pytest.mark.parametrize("product", [100.0, -100.0])
@pytest.mark.parametrize(("task", "run"), [("sentiment", "tiny_run"), ("fill-mask", "fill_run")])
def test_a_row_out_of_range_gives_no_number(
    task: str, run: str, product: float, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that is very different from the calibration texts never gets a wrong score."""
    from edge_imdb.edge_graph import calibrate

    checkpoint = request.getfixturevalue(run)
    text = [2, 9, 11, MASK, 13, 3]

    def far(rows: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        # One whose product with a query of each head is this many nats.
        queries = rows[0][0][:, 0]
        size = queries.shape[1]
        return (product * size**0.5 * queries / (queries**2).sum(axis=1, keepdims=True)).ravel().astype(np.float32)

    near = calibrate.key_bias
    for bits in (7, None):
        graph = tmp_path / f"{bits}.onnx"
        for bias, finite in ((near, True), (far, False)):
            monkeypatch.setattr(calibrate, "key_bias", bias)
            write_edge(checkpoint, graph, task, mask_id=MASK, bits=bits, calibration=[text])
            logits = open_graph(graph).run(None, {"input_ids": np.array([text])})[0]
            assert np.isfinite(logits).all() == finite, (bits, logits)
            assert finite or np.isnan(logits).any()


# --- quantization


@pytest.mark.parametrize("bits", [7, 8])
def test_rows_are_quantized_to_within_half_a_step(bits: int) -> None:
    matrix = np.random.default_rng(0).normal(size=(50, 32)).astype(np.float32) * np.logspace(-3, 3, 50)[:, None]
    matrix[7] = 0
    rows, scale = quantize_rows(matrix.astype(np.float32), bits)
    assert rows.dtype == np.int8 and np.abs(rows.astype(int)).max() == 2 ** (bits - 1) - 1
    assert (np.abs(rows * scale - matrix) <= 0.5001 * scale).all() and not rows[7].any()


@pytest.mark.parametrize("target", TARGETS)
def test_weights_have_the_bits_of_their_target(tiny_run: Path, tmp_path: Path, target: str) -> None:
    write_edge(tiny_run, tmp_path / "edge.onnx", "sentiment", bits=TARGETS[target])
    largest = {
        tensor.name: np.abs(onnx.numpy_helper.to_array(tensor).astype(int)).max()
        for tensor in onnx.load(tmp_path / "edge.onnx").graph.initializer
        if ".layer." in tensor.name and tensor.name.endswith(".int8")
    }
    assert len(largest) == 2 * 6
    # Half of 16 bits hold two products of 255 and 63, not of 255 and 127.
    assert set(largest.values()) == {63 if target in ("portable", "avx2") else 127}


def test_outlier_channels_are_brought_in_without_changing_the_function(tiny_run: Path, tmp_path: Path) -> None:
    """A neuron with large outputs and small weights costs int8 almost no accuracy."""
    checkpoint = load_file(tiny_run / "model.safetensors")
    name = "distilbert.transformer.layer.0.ffn."
    checkpoint[f"{name}lin1.bias"][3] += 60
    checkpoint[f"{name}lin2.weight"][:, 3] /= 50
    wild = with_weights(tiny_run, checkpoint, tmp_path / "wild")
    texts = [ids[0].tolist() for ids in random_ids(40)]
    errors = {}
    write_edge(wild, tmp_path / "fp32.onnx", "sentiment", bits=None)
    exact = open_graph(tmp_path / "fp32.onnx")
    for calibration in ([], texts[:10]):
        write_edge(wild, tmp_path / "int8.onnx", "sentiment", calibration=calibration)
        int8 = open_graph(tmp_path / "int8.onnx")
        rows = [{"input_ids": np.array([ids])} for ids in texts[10:]]
        errors[bool(calibration)] = np.mean([np.abs(int8.run(None, r)[0] - exact.run(None, r)[0]).max() for r in rows])
    assert errors[True] < errors[False] / 3


@pytest.mark.parametrize(
    ("change", "words"),
    [({"activation": "silu"}, "activation 'silu'"), ({"model_type": "bert"}, "is a bert")],
)
def test_a_checkpoint_of_another_kind_is_refused(
    tiny_run: Path, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    shutil.copy(tiny_run / "model.safetensors", tmp_path)
    config = {**json.loads((tiny_run / "config.json").read_text()), **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(GateError, match=words):
        write_edge(tmp_path, tmp_path / "edge.onnx", "sentiment")


def test_a_checkpoint_of_the_other_task_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(GateError, match=r"no weights named 'vocab_transform"):
        write_edge(tiny_run, tmp_path / "edge.onnx", "fill-mask", mask_id=MASK)


def test_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {name: resolve_target(name) for name in TARGETS} == {name: name for name in TARGETS}
    assert resolve_target("auto") in TARGETS
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert resolve_target("auto") == "arm64"
    with pytest.raises(UsageError, match="sse2"):
        resolve_target("sse2")


def test_export_records_the_target_and_its_bits(tiny_run: Path, tmp_path: Path) -> None:
    arguments = ["export", "sentiment", "--quantize", "--no-fp32", "--max-drop", 5, "--from", tiny_run.parent]
    result = run_command(*arguments, "--to", "models", "--target", "avx512-vnni", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "models" / "sentiment" / "edge.json").read_text())
    assert manifest["quantization"]["target"] == "avx512-vnni" and manifest["quantization"]["weight_bits"] == 8
    assert manifest["quantization"]["reduce_range"] is False
    assert {"onnx/model_edge.pb", "onnx/model_quantized.onnx_data"} <= set(manifest["files"])
    assert "onnx/model.onnx" not in manifest["files"]
    wrong = run_command(*arguments, "--to", "others", "--target", "sse2", cwd=tmp_path)
    assert wrong.returncode == 2 and "portable" in wrong.stderr


# --- the early exit


def test_the_lowest_threshold_that_loses_no_more() -> None:
    sure = np.array([0.9, 0.6, 0.8, 0.7, 0.95, 0.8])
    lost = np.array([False, True, False, True, False, True])
    # One of the two reviews at 0.8 is lost, so neither may stop early.
    assert lowest_threshold(sure, lost, 0) == 0.9
    assert lowest_threshold(sure, lost, 1) == 0.8
    assert lowest_threshold(sure, lost, 2) == 0.7
    assert lowest_threshold(sure, lost, 3) == 0.6
    assert lowest_threshold(sure, np.array([False, False, False, False, True, False]), 0) is None


class Reader:
    """A stand-in for a model in choose_early_exit: it knows the label from the words that it has read."""

    def __init__(self, knows_at: int) -> None:
        from edge_imdb.data.text import Truncation

        self.bundle = type("B", (), {"truncation": Truncation(512, 0.25)})
        self.knows_at = knows_at

    def encode(self, text: str) -> list[int]:
        return [0] * min(512, len(text))

    def logits(self, text: str, max_length: int | None = None) -> np.ndarray:
        length = min(max_length or 512, len(text))
        right = length >= min(self.knows_at, len(text))
        sign = 1 if (text[0] == "p") == right else -1
        return np.array([-4.0, 4.0]) * sign


@pytest.mark.parametrize(("knows_at", "length"), [(10, 64), (100, 128), (200, 256)])
def test_the_early_exit_is_as_long_as_it_must_be(knows_at: int, length: int) -> None:
    from edge_imdb.export.early_exit import choose_early_exit

    texts = ["pn"[i % 2] * (300 + i % 50) for i in range(400)]
    reviews = Reviews(texts, [int(text[0] == "p") for text in texts], ["neg", "pos"])
    chosen = choose_early_exit(Reader(knows_at), reviews)  # type: ignore[arg-type]
    assert chosen is not None and chosen.length == length
    sure = 1 / (1 + np.exp(-8 / chosen.temperature))
    assert chosen.threshold == pytest.approx(sure)


def test_where_no_part_is_enough_there_is_no_early_exit() -> None:
    from edge_imdb.export.early_exit import choose_early_exit

    texts = ["pn"[i % 2] * 400 for i in range(400)]
    reviews = Reviews(texts, [int(text[0] == "p") for text in texts], ["neg", "pos"])
    assert choose_early_exit(Reader(400), reviews) is None  # type: ignore[arg-type]


LONG = " ".join(text for text, _ in make_reviews(12, seed=9))


def with_early_exit(bundle: Path, target: Path, **values: object) -> Path:
    shutil.copytree(bundle, target)
    edit_manifest(target, early_exit={"length": 16, "temperature": 2.0, "threshold": 0.0, **values})
    return target


def test_a_sure_early_exit_is_the_answer(tiny_bundle: Path, tmp_path: Path) -> None:
    folder = with_early_exit(tiny_bundle, tmp_path / "sure")
    model, exact = Sentiment(folder), Sentiment(folder, exact=True)
    logits = model.logits(LONG, max_length=16).astype(float) / 2
    np.testing.assert_allclose(model.probabilities(LONG), np.exp(logits) / np.exp(logits).sum(), atol=1e-9)
    assert np.abs(model.probabilities(LONG) - exact.probabilities(LONG)).max() > 1e-4
    np.testing.assert_array_equal(exact.probabilities(LONG), Sentiment(tiny_bundle, exact=True).probabilities(LONG))


def test_an_unsure_early_exit_is_read_on_from(tiny_bundle: Path, tmp_path: Path) -> None:
    model = Sentiment(with_early_exit(tiny_bundle, tmp_path / "unsure", threshold=1.0, temperature=50.0))
    np.testing.assert_array_equal(model.probabilities(LONG), Sentiment(tiny_bundle, exact=True).probabilities(LONG))


def test_a_short_review_is_read_once(tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Sentiment(with_early_exit(tiny_bundle, tmp_path / "short"))
    np.testing.assert_array_equal(
        model.probabilities("a great film"), Sentiment(tiny_bundle, exact=True).probabilities("a great film")
    )


@pytest.mark.parametrize(
    "values", [{"length": 2}, {"length": 1.5}, {"threshold": 1.5}, {"temperature": 0}, {"threshold": None}]
)
def test_a_wrong_early_exit_is_refused(tiny_bundle: Path, tmp_path: Path, values: dict[str, object]) -> None:
    with pytest.raises(BundleError, match=r"edge\.json is not valid"):
        Sentiment(with_early_exit(tiny_bundle, tmp_path / "wrong", **values))


# --- windows


def test_windows_read_the_whole_review(tiny_bundle: Path) -> None:
    model, cut = Sentiment(tiny_bundle, sliding_windows=True), Sentiment(tiny_bundle, exact=True)
    tokens = model._encoder.tokens(LONG)
    limit = model.bundle.truncation.max_length - 2
    count = -(-len(tokens) // limit)
    assert count > 2
    bounds = [round(i * len(tokens) // count) for i in range(count + 1)]
    parts = [model._model.run(model._encoder.frame(tokens[a:b]))[0] for a, b in itertools.pairwise(bounds)]
    logits = np.mean(parts, axis=0).astype(float) / model.bundle.temperature
    np.testing.assert_allclose(model.probabilities(LONG), np.exp(logits) / np.exp(logits).sum(), atol=1e-6)
    # A word in the middle, which truncation would drop, counts.
    words = LONG.split()
    changed = " ".join([*words[: len(words) // 3], "terrible dull lifeless boring", *words[len(words) // 3 :]])
    np.testing.assert_array_equal(cut.encode(LONG)[:12], cut.encode(changed)[:12])
    assert (model.probabilities(LONG) != model.probabilities(changed)).any()


def test_windows_change_nothing_where_a_review_fits(tiny_bundle: Path) -> None:
    texts = [text for text, _ in make_reviews(5, seed=3)]
    short = [text for text in texts if len(Sentiment(tiny_bundle).encode(text)) < 64]
    assert short
    for text in short:
        expected = Sentiment(tiny_bundle, exact=True).probabilities(text)
        np.testing.assert_array_equal(Sentiment(tiny_bundle, sliding_windows=True).probabilities(text), expected)


# --- several reviews at a time


def test_workers_give_what_one_gives_in_order(tiny_bundle: Path) -> None:
    model = Sentiment(tiny_bundle, threads=1)
    texts = [text for text, _ in make_reviews(100, seed=5)]
    assert list(model.stream(iter(texts), workers=3)) == model(texts)


def test_an_error_in_a_stream_of_workers_is_told_where_it_is_reached(tiny_bundle: Path) -> None:
    stream = Sentiment(tiny_bundle).stream(["fine", "dull", " ", "great"], workers=2)
    assert [next(stream)["label"], next(stream)["label"]]
    with pytest.raises(InputError, match="blank"):
        next(stream)
    with pytest.raises(UsageError, match="workers"):
        list(Sentiment(tiny_bundle).stream(["fine"], workers=0))


def test_predict_with_workers_prints_the_same_lines(tiny_bundle: Path, tmp_path: Path) -> None:
    rows = make_reviews(60, seed=6)
    write_csv(tmp_path / "reviews.csv", rows)
    arguments = ["predict", "--model", tiny_bundle, "--file", "reviews.csv", "--json", "--threads", "1"]
    one = run_command(*arguments, cwd=tmp_path)
    many = run_command(*arguments, "--workers", 2, cwd=tmp_path)
    assert one.returncode == many.returncode == 0
    assert many.stdout == one.stdout
    assert [json.loads(line)["text"] for line in many.stdout.splitlines()] == [text for text, _ in rows]


def test_evaluate_with_workers_prints_the_same_figures(tiny_bundle: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "reviews.csv", make_reviews(60, seed=6))
    arguments = ["evaluate", "--model", tiny_bundle, "--data", "reviews.csv", "--json", "--threads", "1"]
    one, many = (json.loads(run_command(*arguments, *more, cwd=tmp_path).stdout) for more in ([], ["--workers", 2]))
    for record in (one, many):
        del record["reviews_per_second"]
    assert one == many
    wrong = run_command("evaluate", "fill-mask", "--exact", cwd=tmp_path)
    assert wrong.returncode == 2 and "for sentiment" in wrong.stderr
