"""Which words decided: the graph with subsets, places in the text as given, the command."""

from __future__ import annotations

import json
import multiprocessing
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import ODD_PIECES, edit_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_imdb import Sentiment
from edge_imdb.cli.explain import parts_of
from edge_imdb.data.emoji import spell_out
from edge_imdb.data.text import clean, clean_with_spans
from edge_imdb.errors import BundleError, GateError, InputError
from edge_imdb.runtime.bundle import EMBEDDED, GRAPHS, MORE_GRAPHS, WEIGHTS, open_bundle, sha256
from edge_imdb.tasks.sentiment.attribution import Attribution, Located
from edge_imdb.tasks.sentiment.graphs import keep_all_tokens

EXAMPLE = "The plot is thin but the leads are charming."
MARKED_UP = (
    "<br />Caf\u0301e&nbsp;&amp; <BR>bar &lt;br&gt; &copy; \u0007 na\u00efve\ud800. "
    "\u4e2d\u6587 don't 1,000 \ufeffok&#8230; "
)
LONG = "The first act is a delight. " + "Nothing much happens here. " * 120 + "The ending is awful, awful, awful."
PIECES = st.sampled_from(ODD_PIECES)
TEXTS = st.lists(st.one_of(PIECES, st.text(max_size=8)), max_size=12).map("".join)


@pytest.fixture(scope="module")
def sentiment() -> Sentiment:
    return Sentiment(threads=1)


def session(graph: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def all_but_each(length: int) -> np.ndarray:
    return np.vstack([np.ones((1, length)), 1 - np.eye(length)]).astype(np.float32)


def test_logits_beside_subsets_are_the_same_bits_as_without() -> None:
    bundle = open_bundle(EMBEDDED / "sentiment", "sentiment")
    alone, beside = session(bundle.graph("int8")), session(bundle.graph("explain"))
    draw = np.random.default_rng(0)
    for length in (3, 8, 61, 512):
        ids = np.array([[101, *draw.integers(999, 30522, length - 2), 102]])
        # No token is dropped beside subsets.
        shares = {node.name: np.ones(node.shape, dtype=np.float32) for node in alone.get_overridable_initializers()}
        expected = alone.run(["logits"], {"input_ids": ids, **shares})[0]
        for kept in (all_but_each(length), np.ones((1, length), dtype=np.float32)):
            found = beside.run(["logits"], {"input_ids": ids, "kept": kept})[0]
            assert (found.view(np.int32) == expected.view(np.int32)).all(), length


def test_subsets_are_what_pytorch_gives_where_cls_reads_no_more_in_the_last_layer(
    tiny_run: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification

    from edge_imdb.edge_graph.subsets import write_subsets
    from edge_imdb.edge_graph.write import write_edge

    write_edge(tiny_run, tmp_path / "edge.onnx", "sentiment", bits=None)
    write_subsets(tmp_path / "edge.onnx", tmp_path / "subsets.onnx")
    model = AutoModelForSequenceClassification.from_pretrained(tiny_run, attn_implementation="eager").eval()
    length = 12
    ids = np.array([[2, *range(20, 18 + length), 3]])
    kept = np.vstack([all_but_each(length), np.random.default_rng(0).integers(0, 2, (20, length))]).astype(np.float32)
    kept[-20:, 0] = 1
    found = session(tmp_path / "subsets.onnx").run(["subset_logits"], {"input_ids": ids, "kept": kept})[0]
    with torch.no_grad():
        hidden = model.distilbert(torch.tensor(ids), output_hidden_states=True).hidden_states[-2]
        for row, logits in zip(kept, found, strict=True):
            last = model.distilbert.transformer.layer[-1](hidden, torch.tensor(row[None]))[-1]
            expected = model.classifier(torch.relu(model.pre_classifier(last[:, 0])))[0].numpy()
            np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_embedded_graphs_share_one_file_of_weights() -> None:
    for task in ("sentiment", "fill-mask"):
        bundle = open_bundle(EMBEDDED / task, task)
        for name in bundle.graphs:
            model = onnx.load(bundle.path / bundle.graphs[name], load_external_data=False)
            external = [t.external_data for t in model.graph.initializer if t.data_location]
            assert {entry.value for place in external for entry in place if entry.key == "location"} == {
                Path(WEIGHTS).name
            }
            assert (bundle.path / bundle.graphs[name]).stat().st_size < 70_000


def test_subsets_are_refused_for_a_graph_of_fill_mask(tmp_path: Path) -> None:
    from edge_imdb.edge_graph.subsets import write_subsets

    with pytest.raises(GateError, match="not an edge graph of a sentiment model"):
        write_subsets(EMBEDDED / "fill-mask" / GRAPHS["int8"], tmp_path / "x.onnx")


def test_an_older_bundle_gets_the_further_graphs_and_keeps_its_weights(tiny_bundle: Path, tmp_path: Path) -> None:
    from edge_imdb.edge_graph.derived_graphs import upgrade

    folder = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    before = Sentiment(folder, precision="int8")("A great film.")
    weights = next(folder.glob("onnx/*_data"))
    digest = sha256(weights)
    for _ in range(2):
        upgrade(folder)
        assert sha256(folder / WEIGHTS) == digest
        assert len(list(folder.glob("onnx/*_data"))) == 1
        sentiment = Sentiment(folder, precision="int8")
        assert sentiment("A great film.") == before
        assert MORE_GRAPHS["explain"] in sentiment.bundle.graphs.values()
        assert sentiment.explain("A great film.")["score"] == before[0]["score"]


def test_a_bundle_without_the_graph_says_so(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED / "sentiment", tmp_path / "bundle"))
    edit_manifest(folder, graphs={"int8": GRAPHS["int8"]})
    with pytest.raises(BundleError, match="has no graph that explains a label: export it again"):
        Sentiment(folder).explain("great film")


@given(TEXTS)
@settings(max_examples=300, deadline=None)
def test_cleaning_with_places_is_cleaning(text: str) -> None:
    cleaned, spans = clean_with_spans(text)
    assert cleaned == clean(text)
    assert len(spans) == len(cleaned)
    assert all(0 <= a < b <= len(text) for a, b in spans)
    # Characters that weren't replaced have their own spans.
    assert all(
        text[a:b] == character
        for character, (a, b) in zip(cleaned, spans, strict=True)
        if b == a + 1 and character != " " and spell_out(text[a:b]) == text[a:b]
    )


def test_cleaning_with_places_names_the_places() -> None:
    assert clean_with_spans(" a<br/> &amp;b ") == ("a &b", [(1, 2), (2, 8), (8, 13), (13, 14)])


def test_an_emoji_is_one_word_with_the_span_of_the_emoji() -> None:
    assert clean_with_spans("No👎🏽!") == ("No thumbs down !", [(0, 1), (1, 2), *[(2, 4)] * 13, (4, 5)])
    text = "So-so 👎🏽👎, ★★☆☆☆ from me 🤷🏻\u200d♀️"
    words = [part["word"] for part in _shared().explain(text)["words"]]
    assert words == ["So-so", "👎🏽", "👎", ",", "★★☆☆☆", "from", "me", "🤷🏻\u200d♀️"]


def test_an_emoji_that_truncation_splits_is_read_not_unread() -> None:
    model = _shared()
    kept = model.bundle.truncation.max_length - 2
    # Three tokens for each emoji ("shaking my head"), so that the head's end and the tail's start are inside emoji.
    text = "🤦" * kept
    result = model.explain(text)
    spans = [(part["start"], part["end"]) for part in result["words"]]
    assert len(spans) == len(set(spans))
    [unread] = result["unread"]
    assert unread["why"] == "cut" and all(end <= unread["start"] or start >= unread["end"] for start, end in spans)


@given(TEXTS)
@settings(max_examples=80, deadline=None)
def test_every_visible_character_is_in_a_word_or_marked_unread(text: str) -> None:
    sentiment = _shared()
    try:
        found = sentiment.explain(text)
    except InputError:
        return
    covered = np.zeros(len(text), dtype=bool)
    for part in found["words"] + found["unread"]:
        assert part["start"] < part["end"]
        covered[part["start"] : part["end"]] = True
    assert all(word["word"] == text[word["start"] : word["end"]] for word in found["words"])
    assert not "".join(c for c, inside in zip(text, covered, strict=True) if not inside).strip()
    assert "".join(part for part, _, _ in parts_of(text, found)) == text
    assert [{"label": found["label"], "score": found["score"]}] == sentiment(text)


_model: list[Sentiment] = []


def _shared() -> Sentiment:
    """One model for all of hypothesis's examples, which may use no fixture of a function."""
    if not _model:
        _model.append(Sentiment(threads=1))
    return _model[0]


def test_the_strongest_words_are_those_that_a_reader_names(sentiment: Sentiment) -> None:
    words = {word["word"]: word["weight"] for word in sentiment.explain(EXAMPLE)["words"]}
    assert max(words, key=words.__getitem__) == "charming"
    assert min(words, key=words.__getitem__) == "thin"
    charming, thin = words.pop("charming"), words.pop("thin")
    assert charming > 1 and thin < -1
    # No other word weighs half as much.
    assert max(map(abs, words.values())) < min(charming, -thin) / 2


def test_words_are_whole_and_markup_is_unread(sentiment: Sentiment) -> None:
    found = sentiment.explain(MARKED_UP)
    words = [word["word"] for word in found["words"]]
    assert {"Caf\u0301e", "&amp;", "bar", "&copy;", "na\u00efve", "don't", "1", ",", "000", "\u4e2d", "\u6587"} <= set(
        words
    )
    unread = [MARKED_UP[part["start"] : part["end"]] for part in found["unread"]]
    assert unread[:3] == ["<br />", "&nbsp;", "<BR>"]
    assert {part["why"] for part in found["unread"]} == {"dropped"}


def test_sentences_end_where_a_reader_ends_them(sentiment: Sentiment) -> None:
    text = 'Mr. Smith is "good." he said... and he was<br /><br />right. J. K. Rowling, e.g. etc. too! Why?'
    found = [text[part["start"] : part["end"]] for part in sentiment.explain(text)["sentences"]]
    assert found == ['Mr. Smith is "good."', "he said... and he was", "right.", "J. K. Rowling, e.g. etc. too!", "Why?"]


def test_a_sentence_alone_has_its_own_margin(sentiment: Sentiment) -> None:
    found = sentiment.explain("The acting is superb. The script is a complete waste of time.")
    good, bad = found["sentences"]
    assert good["alone"] > 1 and bad["alone"] < -1
    assert good["weight"] > bad["weight"] < 0


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"sliding_windows": True}], ids=str)
@pytest.mark.parametrize("text", [EXAMPLE, LONG, "An utterly wonderful film. " * 200], ids=["short", "long", "sure"])
def test_label_and_score_are_those_of_a_call(text: str, options: dict[str, bool]) -> None:
    sentiment = Sentiment(threads=1, **options)
    found = sentiment.explain(text)
    # An explanation drops no token.
    called = Sentiment(threads=1, **options)
    called._model.extra = keep_all_tokens(called._model)
    best = called(text)[0]
    assert (found["label"], found["score"]) == (best["label"], pytest.approx(best["score"], abs=1e-12))
    cut = [part for part in found["unread"] if part["why"] == "cut"]
    assert len(cut) == (len(text) > 3000 and not options.get("sliding_windows", False))


def test_what_an_early_exit_left_is_unread_and_what_was_read_is_not(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EMBEDDED / "sentiment", tmp_path / "bundle"))
    edit_manifest(folder, early_exit={"length": 192, "temperature": 1.3, "threshold": 0.6})
    sentiment = Sentiment(folder, threads=1)
    text = "An utterly wonderful film. " * 200
    early, whole = sentiment.explain(text), Sentiment(folder, threads=1, exact=True).explain(text)
    assert len(early["words"]) == 192 - 2
    assert len(whole["words"]) == sentiment.bundle.truncation.max_length - 2
    (cut,) = early["unread"]
    words = early["words"]
    assert not any(cut["start"] < word["end"] and word["start"] < cut["end"] for word in words)
    assert words[0]["start"] == 0 and words[-1]["end"] == len(text.rstrip())


def test_a_text_of_signs_alone_is_cut_into_sentences_in_linear_time(sentiment: Sentiment) -> None:
    start = time.monotonic()
    assert len(sentiment.explain("!" * 100_000 + " It ends. ")["sentences"]) == 2
    assert time.monotonic() - start < 20, "it took minutes"


def test_of_three_labels_weights_speak_for_the_one_given() -> None:
    def run(ids: list[int], kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Each token adds 1 to a label of its own.
        logits = kept[:, 1:-1] @ np.array([[0, 3, 0], [0, 0, 1], [2, 0, 0]], dtype=np.float32)
        return logits[:1], logits

    found = Attribution(
        Located([7, 8, 9], [(0, 1), (2, 3), (4, 5)], [0, 1, 2], [0, 0, 0], []), run, lambda ids: [1, *ids, 2]
    )
    found.read([0, 1, 2])
    result = found.result("a b c", ["x", "y", "z"], 2.0)
    assert (result["toward"], result["margin"]) == ("y", 0.5)
    assert [word["weight"] for word in result["words"]] == [1.5, 0.0, -1.0]


def test_a_word_that_others_repeat_has_half_of_what_it_says_alone() -> None:
    def run(ids: list[int], kept: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        # Two tokens say the same, and one of them is enough; the third speaks for itself.
        once = np.maximum(kept[:, 1], kept[:, 2]) * 4 - kept[:, 3]
        logits = np.stack([np.full_like(once, 0.5), once], axis=1)
        return logits[:1], logits

    located = Located([7, 8, 9], [(0, 1), (2, 3), (4, 5)], [0, 1, 2], [0, 0, 1], [])
    found = Attribution(located, run, lambda ids: [1, *ids, 2])
    found.read([0, 1, 2])
    result = found.result("a b c", ["neg", "pos"], 2.0)
    assert [word["weight"] for word in result["words"]] == [1.0, 1.0, -0.5]
    assert [(part["weight"], part["alone"]) for part in result["sentences"]] == [(2.0, 1.75), (-0.5, -0.75)]


def _explain_in_child(queue: object) -> None:
    queue.put(_shared().explain(EXAMPLE)["margin"])  # type: ignore[attr-defined]


def test_a_forked_process_explains_too() -> None:
    model = Sentiment(threads=2)
    _model[:] = [model]
    expected = model.explain(EXAMPLE)["margin"]
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=_explain_in_child, args=(queue,))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(60)
    assert child.exitcode == 0


@pytest.mark.parametrize("text", ["", " <br /> ", "\u200b"])
def test_a_blank_text_is_refused(sentiment: Sentiment, text: str) -> None:
    with pytest.raises(InputError, match="The text is blank"):
        sentiment.explain(text)


def test_no_str_is_refused(sentiment: Sentiment) -> None:
    with pytest.raises(InputError, match="A text is needed, not list"):
        sentiment.explain([EXAMPLE])  # type: ignore[arg-type]


def test_the_command_prints_label_text_and_words(
    sentiment: Sentiment, command: Callable[..., CompletedProcess[str]]
) -> None:
    done = command("explain", EXAMPLE)
    assert done.returncode == 0, done.stderr
    expected = sentiment.explain(EXAMPLE)
    strongest = sorted(expected["words"], key=lambda word: -abs(word["weight"]))[:2]
    assert {word["word"] for word in strongest} == {"thin", "charming"}
    lines = done.stdout.splitlines()
    assert lines[:2] == [f"{expected['label']}\t{expected['score']:.4f}", EXAMPLE]
    assert lines[3:5] == [f"{word['weight']:+.2f}\t{word['word']}" for word in strongest]
    assert "\x1b" not in done.stdout


def test_the_command_gives_json_a_line(command: Callable[..., CompletedProcess[str]]) -> None:
    done = command("explain", "--json", "-", input=f"{EXAMPLE}\n{MARKED_UP.encode('utf-8', 'replace').decode()}\n")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["text"] == EXAMPLE and first["words"][3]["word"] == "thin"
    assert all(second["text"][word["start"] : word["end"]] == word["word"] for word in second["words"])


def test_the_command_writes_a_page_that_stands_alone(
    command: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    done = command("explain", "--html", "page.html", "The plot is<br />thin & wooden. <script>1</script>")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;br /&gt;</s>" in page
    assert '">wooden</mark>' in page and " & " not in page
    assert "thin &amp; wooden" in re.sub("</?(mark|s)[^>]*>", "", page)
    assert "http" not in page and "src=" not in page


def test_the_command_says_which_text_is_blank(command: Callable[..., CompletedProcess[str]]) -> None:
    done = command("explain", "good", " ")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: text 2 is blank: give a text with visible characters")


def test_the_command_refuses_a_page_that_cannot_be_written(command: Callable[..., CompletedProcess[str]]) -> None:
    done = command("explain", "--html", "nowhere/page.html", "good")
    assert done.returncode == 1
    assert "nowhere/page.html can't be written (No such file or directory)" in done.stderr
