"""The graph that the Hub's libraries open: batches with an attention mask, the same bits as one text at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from edge_imdb import FillMask, Sentiment
from edge_imdb.errors import GateError
from edge_imdb.runtime.bundle import EMBEDDED, MORE_GRAPHS

TEXTS = [
    "A great film.",
    "The plot is thin, the dialogue wooden, and after an hour I wanted it to end.",
    "Charming! " * 60,
    "Awful.",
]
MASKED = ["This is a great [MASK]!", "The [MASK] was so [MASK] that I left before the end, and so did everybody else."]


def padded(texts: list[str], folder: Path) -> dict[str, np.ndarray]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()
    found = tokenizer.encode_batch(texts)
    return {
        "input_ids": np.array([text.ids for text in found]),
        "attention_mask": np.array([text.attention_mask for text in found]),
    }


def session(folder: Path, level: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(folder / MORE_GRAPHS["batch"], options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_a_batch_of_reviews_has_the_logits_of_each_alone(level: str) -> None:
    folder = EMBEDDED / "sentiment"
    sentiment = Sentiment(folder, threads=1)
    found = session(folder, level).run(["logits"], padded(TEXTS, folder))[0]
    assert found.shape == (len(TEXTS), 2)
    np.testing.assert_array_equal(found, np.stack([sentiment.logits(text) for text in TEXTS]))


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
def test_a_batch_of_masked_texts_has_the_logits_of_each_alone_at_its_masks(level: str) -> None:
    folder = EMBEDDED / "fill-mask"
    fill = FillMask(folder, threads=1)
    feed = padded(MASKED, folder)
    found = session(folder, level).run(["logits"], feed)[0]
    mask = fill.tokenizer.token_to_id("[MASK]")
    assert found.shape == (*feed["input_ids"].shape, 30522)
    for text, ids, logits in zip(MASKED, feed["input_ids"], found, strict=True):
        alone = fill.logits(fill.tokenizer.encode(text).ids)
        np.testing.assert_array_equal(logits[ids == mask], alone)
        assert not logits[ids != mask].any()


@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_onnx_runtimes_optimizer_finds_no_arithmetic_to_rewrite(task: str, tmp_path: Path) -> None:
    """What it merges rounds differently, so the Hub's libraries would get other bits than we do."""
    graph, optimized = EMBEDDED / task / MORE_GRAPHS["batch"], tmp_path / "optimized.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(optimized)
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    found = []
    for path in (graph, optimized):
        nodes = onnx.load(path, load_external_data=False).graph.node
        body = next(node for node in nodes if node.op_type == "Loop").attribute[0].g
        kinds = Counter(node.op_type for node in body.node)
        found.append({kind: kinds[kind] for kind in ("Mul", "Div", "Add", "Sub")})
    assert found[0] == found[1] and min(found[0].values()) > 0


def test_padding_on_the_left_changes_nothing() -> None:
    folder = EMBEDDED / "sentiment"
    feed = padded(TEXTS, folder)
    run = session(folder, "ORT_DISABLE_ALL").run
    left = {}
    for name, rows in feed.items():
        lengths = feed["attention_mask"].sum(axis=1)
        left[name] = np.stack([np.roll(row, len(row) - n) for row, n in zip(rows, lengths, strict=True)])
    assert (left["input_ids"] != feed["input_ids"]).any()
    np.testing.assert_array_equal(run(["logits"], left)[0], run(["logits"], feed)[0])


def test_optimum_opens_the_bundle_for_one_text_and_for_lists() -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    folder = EMBEDDED / "sentiment"
    model = ORTModelForSequenceClassification.from_pretrained(folder, file_name=MORE_GRAPHS["batch"].split("/")[1])
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder), top_k=None)
    sentiment = Sentiment(folder, threads=1)
    for given in (TEXTS[1], TEXTS):
        found = classify(given, batch_size=4)
        for text, ranked in zip([given] if isinstance(given, str) else given, found, strict=True):
            logits = sentiment.logits(text)
            expected = np.exp(logits) / np.exp(logits).sum()
            scores = {entry["label"]: entry["score"] for entry in ranked}
            np.testing.assert_allclose([scores["neg"], scores["pos"]], expected, atol=1e-6)


def test_transformers_js_opens_both_bundles_with_no_options(tmp_path: Path) -> None:
    node = shutil.which("node")
    packages = Path(__file__).resolve().parents[1] / ".node" / "node_modules"
    if node is None or not (packages / "@huggingface" / "transformers").is_dir():
        pytest.skip("transformers.js is not installed: `make browser` installs it")
    (tmp_path / "node_modules").symlink_to(packages)
    script = f"""
        import {{ env, pipeline }} from "@huggingface/transformers";
        env.allowRemoteModels = false;
        env.localModelPath = {json.dumps(f"{EMBEDDED}/")};
        const classify = await pipeline("text-classification", "sentiment");
        const fill = await pipeline("fill-mask", "fill-mask");
        console.log(JSON.stringify([await classify({json.dumps(TEXTS)}), await fill({json.dumps(MASKED[0])})]));
    """
    (tmp_path / "both.mjs").write_text(script, encoding="utf-8")
    done = subprocess.run([node, "both.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    labels, words = json.loads(done.stdout.splitlines()[-1])
    sentiment = Sentiment(EMBEDDED / "sentiment", threads=1)
    for text, found in zip(TEXTS, labels, strict=True):
        logits = sentiment.logits(text).astype(np.float64)
        best = int(logits.argmax())
        assert found["label"] == sentiment.labels[best]
        assert found["score"] == pytest.approx(np.exp(logits[best]) / np.exp(logits).sum(), abs=1e-6)
    expected = FillMask(EMBEDDED / "fill-mask", threads=1)(MASKED[0])
    assert [word["token"] for word in words] == [word["token"] for word in expected]
    assert [word["score"] for word in words] == pytest.approx([word["score"] for word in expected], abs=1e-6)


def test_transformers_js_opens_both_bundles_in_chromium_with_no_options() -> None:
    packages = Path(__file__).resolve().parents[1] / ".node" / "node_modules"
    chromium = shutil.which("chromium")
    if chromium is None or not (packages / "@huggingface" / "transformers").is_dir():
        pytest.skip("Chromium or transformers.js is not installed: `make browser` installs them")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install '.[dev]'")
    roots = {
        "js": packages / "@huggingface" / "transformers" / "dist",
        "ort": packages / "onnxruntime-web" / "dist",
        "models": EMBEDDED,
    }
    kinds = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def answer(route: Any) -> None:
        root, _, name = urlsplit(route.request.url).path.lstrip("/").partition("/")
        if not root:
            route.fulfill(content_type="text/html", body="<!doctype html>")
        elif root in roots and (path := roots[root] / name).is_file():
            route.fulfill(content_type=kinds.get(path.suffix, "application/octet-stream"), path=path)
        else:
            route.fulfill(status=404, body="")

    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        tab.route("**/*", answer)
        tab.goto("http://site.test/")
        labels, words = tab.evaluate(
            """async ([texts, masked]) => {
              const { env, pipeline } = await import("/js/transformers.min.js");
              Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: "/models/" });
              env.backends.onnx.wasm.wasmPaths = "/ort/";
              const classify = await pipeline("text-classification", "sentiment");
              const fill = await pipeline("fill-mask", "fill-mask");
              return [await classify(texts), await fill(masked)];
            }""",
            [TEXTS, MASKED[0]],
        )
        browser.close()
    sentiment = Sentiment(EMBEDDED / "sentiment", threads=1)
    for text, found in zip(TEXTS, labels, strict=True):
        logits = sentiment.logits(text).astype(np.float64)
        # A browser adds in another order.
        assert found["label"] == sentiment.labels[int(logits.argmax())]
        assert found["score"] == pytest.approx(np.exp(logits.max()) / np.exp(logits).sum(), abs=0.05)
    expected = FillMask(EMBEDDED / "fill-mask", threads=1)(MASKED[0])
    assert [word["token"] for word in words[:3]] == [word["token"] for word in expected[:3]]


def test_a_loop_is_refused_around_a_graph_that_is_not_ours(tmp_path: Path) -> None:
    from edge_imdb.edge_graph.batch import write_batch

    with pytest.raises(GateError, match="This is not an edge graph"):
        write_batch(EMBEDDED / "sentiment" / MORE_GRAPHS["batch"], tmp_path / "twice.onnx")


@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_the_graph_passes_the_checks_of_onnx(task: str) -> None:
    onnx.checker.check_model(str(EMBEDDED / task / MORE_GRAPHS["batch"]))
