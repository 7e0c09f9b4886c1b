"""What Sentiment and FillMask take in a call, and how they give results back."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import edit_manifest

from edge_imdb import FillMask, Sentiment
from edge_imdb.data.inputs import ordered_map
from edge_imdb.errors import BundleError, InputError, UsageError
from edge_imdb.runtime.bundle import EMBEDDED

TEXTS = ["a great film", "a dull, lifeless film", "moving"]
NAN = float("nan")


@pytest.fixture(scope="module")
def sentiment() -> Sentiment:
    return Sentiment(EMBEDDED / "sentiment", threads=1)


@pytest.fixture(scope="module")
def fill_mask() -> FillMask:
    return FillMask(EMBEDDED / "fill-mask", threads=1)


# --- what is taken


def test_a_mapping_gives_what_a_transformers_pipeline_gives(sentiment: Sentiment) -> None:
    (best,) = sentiment(TEXTS[0])
    # The pipeline puts the result of a str into a list, and that of a mapping not; see test_pipeline.
    assert sentiment({"text": TEXTS[0]}) == best
    assert sentiment({"text": TEXTS[0]}, top_k=2) == sentiment(TEXTS[0], top_k=2)
    assert sentiment([{"text": text} for text in TEXTS]) == sentiment(TEXTS)


def test_arrays_series_and_tuples_give_a_list(sentiment: Sentiment) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    expected = sentiment(TEXTS)
    shuffled = pandas.Series(TEXTS, index=[7, 3, 5])
    for several in (tuple(TEXTS), np.array(TEXTS), np.array(TEXTS, dtype=object), shuffled, pandas.Index(TEXTS)):
        assert sentiment(several) == expected
    assert sentiment(np.array(TEXTS[0])) == expected[:1]


def test_a_class_with_items_by_index_gives_an_iterator(sentiment: Sentiment) -> None:
    """Like a PyTorch Dataset, whose results come one at a time in a pipeline too."""

    class Items:
        def __len__(self) -> int:
            return len(TEXTS)

        def __getitem__(self, index: int) -> dict[str, str]:
            return {"text": TEXTS[index]}

    results = sentiment(Items())
    assert iter(results) is results and len(results) == len(TEXTS)  # type: ignore[arg-type]
    assert list(results) == sentiment(TEXTS)


def test_arrays_of_pyarrow_have_texts_and_nulls(sentiment: Sentiment) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    for several in (pyarrow.array([*TEXTS, None]), pyarrow.chunked_array([[TEXTS[0]], [*TEXTS[1:], None]])):
        assert sentiment(several, errors="null") == [*sentiment(TEXTS), {"label": None, "score": None}]


def test_an_iterator_gives_an_iterator_that_reads_no_further_than_it_must(sentiment: Sentiment) -> None:
    read = []

    def texts() -> Iterator[str]:
        for text in TEXTS:
            read.append(text)
            yield text

    results = sentiment(texts())
    assert iter(results) is results and read == []
    assert next(results) == sentiment(TEXTS[0])[0] and read == TEXTS[:1]
    assert list(results) == sentiment(TEXTS)[1:]
    assert list(sentiment(iter(TEXTS), top_k=None)) == sentiment(TEXTS, top_k=None)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (None, "not None"),
        (NAN, "not nan"),
        (5, "not int"),
        (b"great", "not bytes"),
        ("\u200b \u00ad\u0301", "blank"),
        ({"review": "great"}, r"has no 'text' \(it has 'review'\)"),
        ({"text": "great", "text_pair": "film"}, "leave 'text_pair' out"),
        ({"text": None}, "not None"),
        (["great"], "not list"),
    ],
)
def test_a_bad_input_is_named_by_its_index(sentiment: Sentiment, bad: object, words: str) -> None:
    with pytest.raises(InputError, match=rf"^inputs\[2\]: .*{words}"):
        sentiment(["great", "dull", bad])  # type: ignore[list-item]
    with pytest.raises(InputError, match=rf"^inputs\[1\]: .*{words}"):
        list(sentiment.stream(["great", bad], workers=2))  # type: ignore[list-item]
    if not isinstance(bad, list):
        with pytest.raises(InputError, match=words):
            sentiment(bad)  # type: ignore[call-overload]


def test_a_bad_row_costs_only_itself_with_errors_null(sentiment: Sentiment) -> None:
    texts = ["great", None, "\u200b", NAN, "dull"]
    great, dull = sentiment(["great", "dull"])
    nothing = {"label": None, "score": None}
    assert sentiment(texts, errors="null") == [great, nothing, nothing, nothing, dull]  # type: ignore[list-item]
    assert sentiment(texts, errors="null", top_k=1, workers=2)[1:3] == [[nothing], [nothing]]
    assert sentiment(None, errors="null") == [nothing]
    assert np.isnan(sentiment.probabilities(texts, errors="null")).all(axis=1).tolist() == [  # type: ignore[list-item]
        False,
        True,
        True,
        True,
        False,
    ]
    with pytest.raises(UsageError, match="errors is 'ignore'"):
        sentiment(texts, errors="ignore")  # type: ignore[call-overload]


def test_a_table_is_refused_because_its_column_is_wanted(sentiment: Sentiment) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame({"text": TEXTS})
    with pytest.raises(InputError, match=r"pass the text column, as in frame\['text'\]"):
        sentiment(frame)
    assert sentiment(frame["text"]) == sentiment(TEXTS)


def test_probabilities_of_many_texts_are_one_array(sentiment: Sentiment) -> None:
    rows = sentiment.probabilities(TEXTS, workers=2)
    assert rows.shape == (3, 2) and rows.dtype == np.float64
    np.testing.assert_array_equal(rows, [sentiment.probabilities(text) for text in TEXTS])
    assert sentiment.probabilities([]).shape == (0, 2)


def test_batch_size_and_workers_change_no_result(sentiment: Sentiment, fill_mask: FillMask) -> None:
    assert sentiment(TEXTS, batch_size=2, workers=3) == sentiment(TEXTS)
    masked = ["a [MASK] film", "a [MASK] [MASK]"]
    assert fill_mask(masked, batch_size=2, workers=2) == fill_mask(masked)


@pytest.mark.parametrize("name", ["top_k", "batch_size", "workers"])
@pytest.mark.parametrize("value", [True, 0, -1, 1.5, "2"])
def test_counts_have_one_rule(sentiment: Sentiment, fill_mask: FillMask, name: str, value: object) -> None:
    for call, text in ((sentiment, "great"), (fill_mask, "a [MASK]")):
        with pytest.raises(UsageError, match=f"{name} is .*1 or more"):
            call(text, **{name: value})
        assert call(text, **{name: np.int64(1)})


def test_fill_mask_takes_what_sentiment_takes(fill_mask: FillMask) -> None:
    masked = ["a [MASK] film", "what a [MASK]"]
    expected = fill_mask(masked, top_k=2)
    assert fill_mask(np.array(masked), top_k=2) == expected == list(fill_mask(iter(masked), top_k=2))
    assert fill_mask({"text": masked[0]}, top_k=2) == expected[0]
    assert fill_mask([masked[0], None, "no mask"], errors="null", top_k=2) == [expected[0], None, None]
    with pytest.raises(InputError, match=r"^inputs\[1\]: The text has no \[MASK\]"):
        fill_mask([masked[0], "no mask"])


def test_what_is_over_the_model_is_wrong_usage(sentiment: Sentiment, fill_mask: FillMask) -> None:
    most = sentiment.bundle.truncation.max_length
    with pytest.raises(UsageError, match=f"max_length is {most + 1}: this model reads {most} tokens at most"):
        sentiment.logits("great", max_length=most + 1)
    with pytest.raises(UsageError, match=r"id 999999 is out of range: the vocabulary has the ids 0 to"):
        fill_mask.logits([101, 103, 999999, 102])
    with pytest.raises(UsageError, match="id -1 is out of range"):
        fill_mask.logits([101, 103, -1, 102])
    with pytest.raises(UsageError, match="give 1 to 512 whole numbers"):
        fill_mask.logits([103] * 513)


def test_a_manifest_over_the_graphs_positions_is_refused_at_opening(tmp_path: Path) -> None:
    import shutil

    bundle = tmp_path / "sentiment"
    shutil.copytree(EMBEDDED / "sentiment", bundle)
    edit_manifest(bundle, truncation={"strategy": "head+tail", "max_length": 2000, "head_ratio": 0.25})
    with pytest.raises(BundleError, match="asks for texts of 2000 tokens, but the model has only 512 positions"):
        Sentiment(bundle)


@pytest.mark.slow
def test_results_are_typed_for_mypy_strict(tmp_path: Path) -> None:
    (tmp_path / "use.py").write_text(
        "from collections.abc import Iterator\n"
        "from edge_imdb import FillMask, Sentiment\n"
        "from edge_imdb.tasks.sentiment.pipeline import Label, LabelOrNull\n"
        "s, f = Sentiment(), FillMask()\n"
        "one: list[Label] = s('great')\n"
        "score: float = s('great')[0]['score']\n"
        "many: list[Label] = s(['great', {'text': 'dull'}])\n"
        "ranked: list[list[Label]] = s(['great'], top_k=None, workers=2)\n"
        "lazy: Iterator[Label] = s(text for text in ['great'])\n"
        "streamed: Iterator[Label] = s.stream(iter(['great']), workers=2)\n"
        "alone: Label = s({'text': 'great'})\n"
        "null: list[LabelOrNull] = s(['great', None], errors='null')\n"
        "word: str = f('a [MASK]')[0]['token_str']\n"
        "words: list[str] = f('[MASK] [MASK]', joint=True)[0]['token_strs']\n"
        "shape: tuple[int, ...] = s.probabilities(['great', 'dull']).shape\n"
        "wrong: int = s('great')[0]['label']\n"
    )
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "use.py"],
        cwd=tmp_path,
        env={"MYPYPATH": str(Path(__file__).resolve().parents[1]), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
    )
    errors = [line for line in result.stdout.splitlines() if line.startswith("use.py") and "error" in line]
    assert len(errors) == 1 and errors[0].startswith("use.py:16:"), result.stdout


# --- ordered_map


def test_each_result_comes_when_it_is_done_though_the_input_waits() -> None:
    release = threading.Event()

    def items() -> Iterator[int]:
        yield from range(3)
        release.wait(30)
        yield 3

    results = ordered_map(lambda item: item * 10, items(), 2)
    # Held back before until 17 were read, which here is never.
    assert [next(results) for _ in range(3)] == [0, 10, 20]
    assert not release.is_set()
    release.set()
    assert list(results) == [30]


def test_order_is_kept_and_so_many_run_at_a_time() -> None:
    running, most, lock = 0, 0, threading.Lock()
    together, later = threading.Barrier(3), threading.Event()

    def work(item: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        if item < 3:
            together.wait(30)
        # The first ends only after some that came later.
        if item == 0:
            assert later.wait(30)
        elif item == 10:
            later.set()
        with lock:
            running -= 1
        return item

    assert list(ordered_map(work, range(40), 3)) == list(range(40))
    assert most == 3


def test_no_more_is_read_ahead_than_eight_for_each_worker() -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        while True:
            read += 1
            yield read

    results = ordered_map(lambda item: item, items(), 2)
    for taken in range(1, 50):
        assert next(results) == taken
        deadline = time.monotonic() + 30
        # All that may be read is read, and one more may wait for room.
        while read < taken + 15:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert read <= taken + 17
    results.close()  # type: ignore[attr-defined]


def test_errors_of_function_and_items_come_at_their_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 0
        raise KeyError("broken input")

    results = ordered_map(lambda item: 1 // item, items(), 2)
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)
    results = ordered_map(lambda item: item, items(), 2)
    assert [next(results), next(results)] == [1, 0]
    with pytest.raises(KeyError, match="broken input"):
        next(results)


def test_an_abandoned_generator_leaves_no_worker_behind_and_does_not_hang() -> None:
    waits = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        waits.wait(60)
        yield 2

    before = threading.active_count()
    results = ordered_map(lambda item: item, items(), 2)
    assert next(results) == 1
    start = time.monotonic()
    del results
    # The input would have it wait for a minute.
    assert time.monotonic() - start < 10
    waits.set()
    while threading.active_count() > before:
        assert time.monotonic() - start < 30
        time.sleep(0.01)


def test_a_process_ends_though_a_stream_that_was_left_waits_for_its_input() -> None:
    code = (
        "import os\n"
        "from edge_imdb.data.inputs import ordered_map\n"
        "results = ordered_map(str.strip, os.fdopen(0, closefd=False), 2)\n"
        "print(next(results))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("great\n")
        process.stdin.flush()
        assert process.stdout.readline() == "great\n"
        assert process.wait(timeout=20) == 0, process.stderr.read()
