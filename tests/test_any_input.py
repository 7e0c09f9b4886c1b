"""Any text, list or file gives one of our errors or an answer: probabilities, in the order of the input."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edge_imdb import FillMask, Sentiment
from edge_imdb.data.datasets import read_reviews
from edge_imdb.data.tables import iter_texts
from edge_imdb.data.text import Truncation, clean
from edge_imdb.errors import BundleError, EdgeImdbError, InputError
from edge_imdb.runtime.bundle import open_bundle, seal

# The same texts in every run, so that a failure comes from a change to the code. `make soak` searches further.
settings.register_profile(
    "edge", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
settings.load_profile("edge")

# Any Unicode, with lone surrogates, and text such as reviews contain.
PIECES = st.sampled_from(
    ["great", "film", "<br />", "&amp;", "&#0;", "[MASK]", "[CLS]", "\x00", "é", "ё", "映", "🎬", " "]
)
TEXTS = st.one_of(
    st.text(st.characters(), max_size=300),
    st.lists(PIECES, max_size=60).map("".join),
    st.lists(PIECES, max_size=700).map(" ".join),
)


@functools.cache
def sentiment(**options: bool) -> Sentiment:
    return Sentiment(threads=1, **options)  # type: ignore[arg-type]


@functools.cache
def fill_mask() -> FillMask:
    return FillMask(threads=1)


@settings(max_examples=300)
@given(TEXTS)
@example("\ud800")
@example("\u200b")
@example("a" * 100_000)
@example("[MASK]" * 600)
def test_any_text_gets_probabilities_or_is_called_blank(text: str) -> None:
    try:
        scores = sentiment().probabilities(text)
    except InputError as error:
        assert "blank" in str(error)
        with pytest.raises(InputError):
            sentiment()(text)
        return
    assert clean(text)
    assert np.isfinite(scores).all() and (scores >= 0).all() and abs(scores.sum() - 1) < 1e-9
    assert 3 <= len(sentiment().encode(text)) <= sentiment().bundle.truncation.max_length


@settings(max_examples=60)
@given(st.lists(TEXTS, max_size=8), st.booleans())
def test_a_list_gives_what_its_texts_give_alone_in_order(texts: list[str], sliding_windows: bool) -> None:
    model = sentiment(sliding_windows=sliding_windows)
    kept = []
    for text in texts:
        try:
            kept.append((text, model(text)[0]))
        except InputError:
            continue
    assert model([text for text, _ in kept]) == [result for _, result in kept]
    assert list(model.stream([text for text, _ in kept], workers=2)) == [result for _, result in kept]
    if len(kept) < len(texts):
        with pytest.raises(InputError):
            model(texts)


@settings(max_examples=150)
@given(TEXTS, st.integers(1, 3), st.booleans())
def test_any_text_with_masks_is_filled(text: str, masks: int, at_start: bool) -> None:
    whole = "[MASK] " * masks + text if at_start else text + " [MASK]" * masks
    try:
        results = fill_mask()(whole, top_k=3)
    except InputError as error:
        # A text may contain hundreds of masks of its own.
        assert whole.count("[MASK]") > 3, error
        return
    for entries in results if isinstance(results[0], list) else [results]:
        scores = [entry["score"] for entry in entries]
        assert len(scores) == 3 and scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)


@settings(max_examples=200)
@given(st.lists(st.integers(5, 30000), max_size=900), st.integers(3, 512), st.floats(0, 1))
def test_a_cut_keeps_its_length_head_and_tail(ids: list[int], length: int, ratio: float) -> None:
    cut = Truncation(length, ratio).cut(ids)
    assert len(cut) == min(len(ids), length - 2)
    head = round((length - 2) * ratio) if len(ids) > length - 2 else len(ids)
    assert cut[:head] == ids[:head] and (not cut[head:] or cut[head:] == ids[-len(cut[head:]) :])


FILES = st.one_of(
    st.binary(max_size=400),
    st.lists(st.sampled_from(['{"text": "a"}', '{"text": 1}', "{", "[]", "text", "text,label", '"', "a,b", ""]))
    .map("\n".join)
    .map(str.encode),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["text", "label", "x"]), inner),
        max_leaves=10,
    )
    .map(json.dumps)
    .map(str.encode),
)


@settings(max_examples=150)
@given(FILES, st.sampled_from([".txt", ".csv", ".tsv", ".json", ".jsonl", ".parquet", ".csv.gz", ".txt.zst"]))
def test_any_file_is_read_or_refused(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"file{suffix}"
    path.write_bytes(content)
    try:
        assert all(isinstance(text, str) for _, text in iter_texts(path, "text"))
    except EdgeImdbError as error:
        assert str(error)
    if ".txt" not in suffix:
        try:
            reviews = read_reviews(str(path), "test", "text", "label")
            assert len(reviews.texts) == len(reviews.labels)
        except EdgeImdbError as error:
            assert str(error)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=300)
@given(st.data())
def test_any_manifest_is_read_or_refused(tiny_bundle: Path, tmp_path: Path, data: st.DataObject) -> None:
    """A value anywhere in a valid manifest is changed or removed, and the manifest gets a new sha256 of itself."""
    record = json.loads((tiny_bundle / "edge.json").read_text())
    place = record
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if not isinstance(place[key], dict) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    if data.draw(st.booleans()):
        place[key] = data.draw(JSON)
    else:
        del place[key]
    try:
        record["sha256"] = seal(record)
    except (TypeError, ValueError):
        return
    (tmp_path / "edge.json").write_text(json.dumps(record))
    try:
        bundle = open_bundle(tmp_path, "sentiment")
        for precision in bundle.graphs:
            bundle.size(precision)
    except BundleError as error:
        assert str(tmp_path) in str(error)
