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
from edge_imdb.runtime.bundle import EMBEDDED, MANIFEST, MORE_GRAPHS, open_bundle, seal

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


UNMASKED = ["A film that I would see again.", "The plot is thin, and the dialogue wooden."]


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers' own model in fp32, on the weights of the embedded fill-mask bundle."""
    from transformers import DistilBertForMaskedLM

    from edge_imdb.edge_graph.read import write_checkpoint

    folder = tmp_path_factory.mktemp("checkpoint")
    write_checkpoint(open_bundle(EMBEDDED / "fill-mask", "fill-mask"), folder)
    return DistilBertForMaskedLM.from_pretrained(folder).eval()


@pytest.mark.parametrize("texts", [UNMASKED, MASKED, UNMASKED + MASKED], ids=["no mask", "masks", "both"])
def test_every_position_of_a_text_has_its_logits_with_or_without_masks(texts: list[str], fp32: Any) -> None:
    import torch

    feed = padded(texts, EMBEDDED / "fill-mask")
    found = session(EMBEDDED / "fill-mask", "ORT_ENABLE_ALL").run(["logits"], feed)[0]
    with torch.no_grad():
        expected = fp32(**{name: torch.from_numpy(rows) for name, rows in feed.items()}).logits.numpy()
    read = feed["attention_mask"] == 1
    # Only the activations differ, which are 8 bits wide: the words are almost always the same.
    assert np.corrcoef(found[read].ravel(), expected[read].ravel())[0, 1] > 0.995
    assert (found[read].argmax(axis=-1) == expected[read].argmax(axis=-1)).mean() > 0.9
    assert not found[~read].any()


@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
def test_a_row_of_attention_that_is_all_zero_is_read_as_if_it_were_all_one(task: str) -> None:
    texts = TEXTS if task == "sentiment" else UNMASKED + MASKED
    feed = padded(texts, EMBEDDED / task)
    run = session(EMBEDDED / task, "ORT_ENABLE_ALL").run
    expected, feed["attention_mask"][1] = run(["logits"], feed)[0], 0
    found = run(["logits"], feed)[0]
    whole = np.ones_like(feed["input_ids"][1:2])
    alone = run(["logits"], {"input_ids": feed["input_ids"][1:2], "attention_mask": whole})[0]
    np.testing.assert_array_equal(found[1], alone[0])
    others = [row for row in range(len(texts)) if row != 1]
    np.testing.assert_array_equal(found[others], expected[others])
    assert np.isfinite(found).all()


def test_texts_of_masks_alone_and_batches_of_nothing_have_logits_too() -> None:
    run = session(EMBEDDED / "fill-mask", "ORT_DISABLE_ALL").run
    ids = np.full((2, 4), 103)
    assert np.isfinite(run(["logits"], {"input_ids": ids, "attention_mask": np.ones_like(ids)})[0]).all()
    for shape in ((0, 4), (2, 0)):
        nothing = np.ones(shape, dtype=np.int64)
        for task in ("sentiment", "fill-mask"):
            assert (
                session(EMBEDDED / task, "ORT_DISABLE_ALL")
                .run(["logits"], {"input_ids": nothing, "attention_mask": nothing})[0]
                .size
                == 0
            )


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


@pytest.mark.parametrize("where", [{}, {"subfolder": "onnx"}], ids=["the folder", "subfolder"])
def test_optimum_opens_sentiment_by_its_folder_alone(where: dict[str, str]) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer, pipeline

    folder = EMBEDDED / "sentiment"
    model = ORTModelForSequenceClassification.from_pretrained(folder, **where)
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(folder), top_k=None)
    sentiment = Sentiment(folder, threads=1)
    for given in (TEXTS[1], TEXTS):
        for padding in (True, "max_length"):
            found = classify(given, batch_size=4, padding=padding, truncation=True)
            for text, ranked in zip([given] if isinstance(given, str) else given, found, strict=True):
                logits = sentiment.logits(text)
                expected = np.exp(logits) / np.exp(logits).sum()
                scores = {entry["label"]: entry["score"] for entry in ranked}
                np.testing.assert_allclose([scores["neg"], scores["pos"]], expected, atol=1e-6)


@pytest.mark.parametrize("where", [{}, {"subfolder": "onnx"}], ids=["the folder", "subfolder"])
def test_optimum_opens_fill_mask_by_its_folder_alone(where: dict[str, str]) -> None:
    from optimum.onnxruntime import ORTModelForMaskedLM
    from transformers import AutoTokenizer

    folder = EMBEDDED / "fill-mask"
    model, tokenizer = ORTModelForMaskedLM.from_pretrained(folder, **where), AutoTokenizer.from_pretrained(folder)
    fill = FillMask(folder, threads=1)
    for padding in (True, "max_length"):
        feed = tokenizer(MASKED + UNMASKED, padding=padding, max_length=64, return_tensors="np")
        found = model(**feed).logits
        assert np.isfinite(found).all()
        for text, ids, logits in zip(MASKED, feed["input_ids"], found, strict=False):
            alone = fill.logits(fill.tokenizer.encode(text).ids)
            np.testing.assert_array_equal(logits[ids == tokenizer.mask_token_id], alone)


def test_optimum_opens_the_fp32_graph_of_a_bundle_that_has_one(tiny_bundle: Path) -> None:
    from optimum.onnxruntime import ORTModelForSequenceClassification
    from transformers import AutoTokenizer

    model = ORTModelForSequenceClassification.from_pretrained(tiny_bundle)
    texts = ["A great film.", "Awful."]
    feed = AutoTokenizer.from_pretrained(tiny_bundle)(texts, padding="max_length", max_length=32, return_tensors="np")
    sentiment = Sentiment(tiny_bundle, precision="fp32")
    np.testing.assert_allclose(model(**feed).logits, [sentiment.logits(text) for text in texts], atol=1e-4)


def older(folder: Path, target: Path) -> Path:
    """A copy of a bundle with the names that its graphs had before."""
    shutil.copytree(folder, target)
    record = json.loads((target / MANIFEST).read_text())
    for key, name in record["graphs"].items():
        if name.endswith(".pb"):
            record["graphs"][key] = name.replace(".pb", ".onnx")
            (target / name).rename(target / record["graphs"][key])
            record["files"][record["graphs"][key]] = record["files"].pop(name)
    (target / MANIFEST).write_text(json.dumps({**record, "sha256": seal(record)}))
    return target


def test_an_older_bundle_still_opens_and_can_be_upgraded(tmp_path: Path) -> None:
    from edge_imdb.edge_graph.derived_graphs import upgrade

    folder = older(EMBEDDED / "sentiment", tmp_path / "older")
    assert (folder / "onnx" / "model_edge.onnx").exists()
    expected = Sentiment(threads=1).explain(TEXTS[1])
    assert Sentiment(folder, threads=1).explain(TEXTS[1]) == expected
    upgrade(folder)
    assert {path.name for path in (folder / "onnx").glob("*.onnx")} == {"model_quantized.onnx"}
    assert Sentiment(folder, threads=1).explain(TEXTS[1]) == expected
    written, embedded = (open_bundle(path, "sentiment").files for path in (folder, EMBEDDED / "sentiment"))
    for name in written.keys() - {"README.md"}:
        assert written[name] == embedded[name]


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
