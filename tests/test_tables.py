"""Rows and texts of every kind of file, read once; and how predict and fill number, skip and print them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import subprocess
import sys
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import make_reviews, write_csv

from edge_imdb import Sentiment
from edge_imdb.cli.main import cli
from edge_imdb.cli.texts import as_json_line
from edge_imdb.data.datasets import read_reviews
from edge_imdb.data.tables import iter_rows, iter_texts
from edge_imdb.data.text import is_blank
from edge_imdb.errors import BlankError, DataError, InputError, MissingDependencyError, UsageError
from edge_imdb.runtime.bundle import EMBEDDED

TEXTS = ["great film", 'a "quoted", comma; film', "喜欢这部电影 🎬", "two\nlines" + "x" * 40_000]
SENTIMENT = str(EMBEDDED / "sentiment")
FILL_MASK = str(EMBEDDED / "fill-mask")


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[str, str, Exception | None]:
    """A command in this process, which is sooner than in one of its own: its output, and the error that ended it."""
    error: Exception | None = None
    try:
        cli.main([str(argument) for argument in arguments], prog_name="edge-imdb", standalone_mode=False)
    except Exception as caught:
        error = caught
    captured = capsys.readouterr()
    return captured.out, captured.err, error


def piped(content: bytes) -> str:
    """A path whose content comes through a pipe and can be read once, as ``<(…)`` gives."""
    reading, writing = os.pipe()

    def write() -> None:
        with os.fdopen(writing, "wb") as file:
            file.write(content)

    threading.Thread(target=write, daemon=True).start()
    return f"/dev/fd/{reading}"


def save(path: Path, texts: list[str]) -> Path:
    """A file of the kind that its name says."""
    kind = path.name.split(".")[1]
    out = io.StringIO(newline="")
    if kind in ("csv", "tsv"):
        import csv

        csv.writer(out, delimiter="," if kind == "csv" else "\t").writerows([["text", "x"], *([t, 1] for t in texts)])
    elif kind == "json":
        json.dump([{"text": text} for text in texts], out, indent=1, ensure_ascii=False)
    elif kind == "jsonl":
        out.writelines(json.dumps({"text": text}) + "\n" for text in texts)
    else:
        out.write("".join(text + "\n" for text in texts))
    content = out.getvalue().encode()
    if kind == "parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        buffer = io.BytesIO()
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"text": texts}), buffer)
        content = buffer.getvalue()
    path.write_bytes(compressed(content, path.suffix))
    return path


def compressed(content: bytes, suffix: str) -> bytes:
    if suffix == ".gz":
        # Two members on end, as `cat a.gz b.gz` makes.
        return gzip.compress(content[:100]) + gzip.compress(content[100:])
    if suffix == ".zst":
        zstandard = pytest.importorskip("zstandard", reason="zstandard is not installed")
        return bytes(zstandard.compress(content[:100]) + zstandard.compress(content[100:]))
    return content


# --- files


@pytest.mark.parametrize("compression", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "txt"])
def test_every_kind_is_read_compressed_too(tmp_path: Path, kind: str, compression: str) -> None:
    texts = [text.replace("\n", " ") for text in TEXTS] if kind == "txt" else TEXTS
    path = save(tmp_path / f"reviews.{kind}{compression}", texts)
    counted = 0

    def read(count: int) -> None:
        nonlocal counted
        counted += count

    assert [text for _, text in iter_texts(path, read=read)] == texts
    # What a progress bar goes by.
    assert counted == path.stat().st_size
    os.mkfifo(tmp_path / f"pipe.{kind}{compression}")
    threading.Thread(
        target=lambda: (tmp_path / f"pipe.{kind}{compression}").write_bytes(path.read_bytes()), daemon=True
    ).start()
    assert [text for _, text in iter_texts(tmp_path / f"pipe.{kind}{compression}")] == texts


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("kind", ["csv", "txt", "jsonl", "parquet"])
def test_a_compressed_file_that_was_cut_short_is_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    path = save(tmp_path / f"reviews.{kind}{suffix}", [text for text, _ in make_reviews(300)])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match="is damaged or not a"):
        list(iter_texts(path))
    path.write_bytes(b"text\nnot compressed at all\n")
    with pytest.raises(InputError, match="is damaged or not a"):
        list(iter_texts(path))


def test_zstd_without_its_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "reviews.txt.zst").write_bytes(b"")
    for module in ("zstandard", "compression.zstd", "pyarrow"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match="pip install zstandard"):
        list(iter_texts(tmp_path / "reviews.txt.zst"))


@pytest.mark.parametrize("name", ["reviews.xlsx", "reviews.pdf", "reviews.docx.gz", "reviews.TSV2"])
def test_an_unknown_extension_is_refused_by_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"great film\n")
    with pytest.raises(InputError, match=r"of a kind that edge-imdb can't read \(\.\w+\): use \.csv, \.tsv"):
        list(iter_texts(tmp_path / name))


@pytest.mark.parametrize("name", ["reviews", "reviews.txt", "reviews.TXT", "reviews.log"])
def test_text_is_a_row_for_each_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("great\n\nbad\n")
    assert [text for _, text in iter_texts(tmp_path / name)] == ["great", "", "bad"]


def test_a_json_array_is_read_row_by_row_as_it_arrives(tmp_path: Path) -> None:
    path, go_on = tmp_path / "rows.json", threading.Event()
    os.mkfifo(path)

    def write() -> None:
        with path.open("w") as file:
            file.write('[{"text": "first"}, {"text": "second"},')
            file.flush()
            go_on.wait(30)
            file.write(' {"text": "third"}]')

    threading.Thread(target=write, daemon=True).start()
    rows = iter_texts(path)
    assert [next(rows)[1], next(rows)[1]] == ["first", "second"]
    go_on.set()
    assert [text for _, text in rows] == ["third"]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_is_read_to_its_end(tmp_path: Path, indent: int | None) -> None:
    rows = [{"text": f"{i} {'é' * (i % 50)}", "deep": {"a": [1, {"b": "]}"}]}} for i in range(3000)]
    rows[7]["text"] = "x" * 300_000
    path = tmp_path / "rows.json"
    path.write_text("\n  " + json.dumps(rows, indent=indent, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert [row for _, row in iter_rows(path)] == rows


def test_json_lines_under_the_name_of_json_are_read(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('\n{"text": "a"}\n{"text": "b"}\n')
    assert list(iter_texts(tmp_path / "rows.json")) == [
        (f"{tmp_path}/rows.json line 2", "a"),
        (f"{tmp_path}/rows.json line 3", "b"),
    ]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('[{"text": "a"}, 5]', "row 2 is not a JSON object"),
        ('["a", "b"]', "row 1 is not a JSON object"),
        ('[{"text": "a"} {"text": "b"}]', "row 2 isn't separated from the previous row by a comma"),
        ('[{"text": "a"}, {"text": ', "row 2 is not valid JSON, or the array has no end"),
        ('[{"text": "a"}', "the array has no end"),
        ('[{"text": "a"}] {"text": "b"}', "has text after its array"),
        ('[{"text": "a"},, {"text": "b"}]', "row 2 is not"),
        ("[]", "is empty"),
        ("", "is empty"),
        ('{"data": [\n{"text": "a"}]}', "line 1 is not a JSON object"),
    ],
)
def test_json_that_is_no_array_of_objects_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "rows.json").write_text(content)
    with pytest.raises(InputError, match=words):
        list(iter_texts(tmp_path / "rows.json"))


@pytest.mark.parametrize(("sign", "shown"), [(";", "';'"), ("\t", "a tab"), ("|", r"'\|'")])
def test_another_delimiter_is_guessed_and_taken(tmp_path: Path, sign: str, shown: str) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text(f"text{sign}label\ngreat{sign}pos\n")
    with pytest.raises(InputError, match=f"its delimiter seems to be {shown}: give --delimiter"):
        list(iter_texts(path))
    path.write_text(f"text{sign}label\ngreat, really{sign}pos\n")
    with pytest.raises(InputError, match=f"its delimiter seems to be {shown}: give --delimiter"):
        list(iter_texts(path))
    for head in (f"text{sign}label", f'"text"{sign}"label"'):
        path.write_text(f'{head}\n"great{sign} really"{sign}"pos"\n')
        with pytest.raises(InputError, match=f"its delimiter seems to be {shown}: give --delimiter"):
            list(iter_texts(path))
    path.write_text(f"text{sign}label\ngreat, really{sign}pos\n")
    given = "\\t" if sign == "\t" else sign
    assert [text for _, text in iter_texts(path, delimiter=given)] == ["great, really"]


def test_a_fault_in_csv_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text('text\ngreat\n"a "quoted" word"\nfine\n')
    with pytest.raises(InputError, match=r"reviews.csv line 3 is not valid CSV .*: correct it"):
        list(iter_texts(path))


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n", "\x00"])
def test_what_is_no_delimiter_is_wrong_usage(tmp_path: Path, delimiter: str) -> None:
    (tmp_path / "reviews.csv").write_text("text\ngreat\n")
    with pytest.raises(UsageError, match="give one character"):
        list(iter_texts(tmp_path / "reviews.csv", delimiter=delimiter))
    (tmp_path / "reviews.txt").write_text("great\n")
    with pytest.raises(UsageError, match="leave it out"):
        list(iter_texts(tmp_path / "reviews.txt", delimiter=";"))


# --- labels


def test_numbers_for_labels_in_csv_are_indices_of_named_labels(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "numbers.csv", [("great", "1"), ("dull", "0")])
    assert read_reviews(str(path), "test", names=["neg", "pos"]).labels == [1, 0]
    path = write_csv(tmp_path / "over.csv", [("great", "1"), ("dull", "2")])
    with pytest.raises(DataError, match="the label 2: the model knows 0 to 1"):
        read_reviews(str(path), "test", names=["neg", "pos"])


def test_twelve_numeric_classes_sort_as_numbers(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "twelve.csv", [(f"film {i}", str(i)) for i in range(12)])
    reviews = read_reviews(str(path), "train")
    assert reviews.names == [str(i) for i in range(12)] and reviews.labels == list(range(12))


@pytest.mark.parametrize("labels", [["007", "008"], ["1", "good"], ["1.0.1", "2"], ["-0", "1"]])
def test_other_labels_stay_words(tmp_path: Path, labels: list[str]) -> None:
    path = write_csv(tmp_path / "words.csv", [(f"film {label}", label) for label in labels])
    assert read_reviews(str(path), "train").names == sorted(labels)


# --- blank


def test_blank_is_what_leaves_no_token_for_every_character() -> None:
    encoder = Sentiment(SENTIMENT, threads=1)._encoder
    # All where the two may differ: a letter or digit is a token. Of the rest one in sixteen planes is enough.
    for number in (*range(0x3000), *range(0xA000, 0x20000, 7), *range(0xD7F0, 0x110000, 1021)):
        sign = chr(number)
        try:
            encoder.encode(sign)
            blank = False
        except BlankError:
            blank = True
        assert is_blank(sign) == blank, f"U+{number:04X} {unicodedata.name(sign, '')}"


@pytest.mark.parametrize("text", ["\u200b", "\u00ad", "\u0301", "&nbsp;<br />\u200b", "\ufffd"])
def test_data_sets_refuse_what_leaves_no_token(tmp_path: Path, text: str) -> None:
    path = write_csv(tmp_path / "reviews.csv", [("great", "1"), (text, "0")])
    with pytest.raises(DataError, match="line 3 has no text"):
        read_reviews(str(path), "train")


# --- predict and fill


def test_a_pipe_is_read_once(capsys: pytest.CaptureFixture[str]) -> None:
    path = piped(b"great\n" * 5)
    out, _, error = run("predict", "--model", SENTIMENT, "--file", path, capsys=capsys)
    assert error is None and out.count("pos\t") == 5


def test_what_came_before_a_blank_last_line_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reviews.txt").write_text("great\ndull\n\u00ad\n")
    for workers in (1, 2):
        arguments = ("predict", "--model", SENTIMENT, "--file", tmp_path / "reviews.txt", "--workers", workers)
        out, _, error = run(*arguments, capsys=capsys)
        assert out.count("\n") == 2
        assert isinstance(error, InputError) and "reviews.txt line 3 is blank" in str(error)


@pytest.mark.parametrize("workers", [1, 2])
def test_skipped_rows_keep_their_number(tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int) -> None:
    rows = ["great", None, "\u200b", "\u00ad", "\u0301", " ", "", "dull"]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    arguments = ["--file", tmp_path / "reviews.jsonl", "--skip-blank", "--workers", workers]
    out, err, error = run("predict", "--model", SENTIMENT, *arguments, "--json", capsys=capsys)
    records = [json.loads(line) for line in out.splitlines()]
    assert error is None and [(record["row"], record["text"]) for record in records] == list(enumerate(rows, 1))
    assert [record["label"] for record in records] == ["pos", *[None] * 6, "neg"]
    assert "reviews.jsonl line 2 is blank: skipped" in err and "6 blank rows were skipped in total" in err
    out, _, _ = run("predict", "--model", SENTIMENT, *arguments, capsys=capsys)
    assert [line.split("\t")[0] for line in out.splitlines()] == ["pos", "neg"]


def test_a_null_without_skip_blank_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reviews.jsonl").write_text('{"text": "great"}\n{"text": null}\n')
    _, _, error = run("predict", "--model", SENTIMENT, "--file", tmp_path / "reviews.jsonl", capsys=capsys)
    assert "line 2 has null in column 'text'" in str(error) and "--skip-blank" in str(error)


def test_top_k_prints_several_labels(capsys: pytest.CaptureFixture[str]) -> None:
    out, _, _ = run("predict", "--model", SENTIMENT, "great", "--top-k", 2, capsys=capsys)
    labels = out.strip().split("\t")
    assert labels[::2] == ["pos", "neg"] and abs(float(labels[1]) + float(labels[3]) - 1) < 1e-3
    out, _, _ = run("predict", "--model", SENTIMENT, "great", "--top-k", 1, "--json", capsys=capsys)
    assert [sorted(label) for label in json.loads(out)["labels"]] == [["label", "score"]]


def test_fill_skips_blank_rows_and_has_workers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("a [MASK] film\n\u200b\nwhat a [MASK]\n")
    arguments = ["fill", "--model", FILL_MASK, "--file", tmp_path / "texts.txt", "--skip-blank", "--json"]
    one, _, error = run(*arguments, capsys=capsys)
    records = [json.loads(line) for line in one.splitlines()]
    assert error is None and [record["row"] for record in records] == [1, 2, 3]
    assert records[1]["fills"] is None and len(records[2]["fills"]) == 5
    two, _, _ = run(*arguments, "--workers", 2, capsys=capsys)
    assert two == one


def test_a_json_line_is_one_line_for_splitlines_too() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x1cf\n"
    line = as_json_line({"row": 1, "text": text, "é": "喜"})
    assert line.splitlines() == [line] and json.loads(line)["text"] == text and "é" in line and "喜" in line


@contextlib.contextmanager
def predicting(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "edge_imdb", "predict", "--model", SENTIMENT, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("arguments", [["-"], ["--workers", "2"]])
def test_standard_input_needs_no_dash_and_its_labels_come_at_once(arguments: list[str]) -> None:
    with predicting(*arguments) as process:
        assert process.stdin and process.stdout
        process.stdin.write("a great film\n")
        process.stdin.flush()
        assert process.stdout.readline().startswith("pos\t")
        process.stdin.write("a terrible film\n")
        process.stdin.close()
        assert process.stdout.readline().startswith("neg\t")
        assert process.wait(timeout=30) == 0


def test_an_error_ends_predict_though_its_input_stays_open() -> None:
    with predicting("-", "--workers", "2") as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write("a great film\n\n")
        process.stdin.flush()
        assert process.wait(timeout=30) == 1
        assert process.stdout.read().startswith("pos\t")
        error = process.stderr.read()
        assert error.startswith("Error: standard input line 2 is blank") and error.count("\n") == 1


def test_the_first_label_of_200000_lines_comes_as_soon_as_that_of_one(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("a great film\n")
    (tmp_path / "many.txt").write_text(("a great film " * 100 + "\n") * 200_000)

    def seconds(name: str) -> float:
        start = time.monotonic()
        with predicting("--file", str(tmp_path / name)) as process:
            assert process.stdout and process.stdout.readline().startswith("pos\t")
            return time.monotonic() - start

    # The first pass over these 260 MB took longer than all else.
    one = min(seconds("one.txt") for _ in range(3))
    assert min(seconds("many.txt") for _ in range(3)) < one + 0.5


def test_delimiter_is_for_files_alone(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, error = run("predict", "great", "--delimiter", ";", capsys=capsys)
    assert isinstance(error, UsageError) and "--delimiter is for --file" in str(error)


Command = Callable[..., "subprocess.CompletedProcess[str]"]


def test_nothing_at_all_on_standard_input_is_wrong_usage(command: Command) -> None:
    result = command("predict", stdin=subprocess.DEVNULL)
    assert result.returncode == 2 and 'Give a text, as in edge-imdb predict "great film"' in result.stderr
