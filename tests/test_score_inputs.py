"""What score reads and writes: every format gives the same labels, and a bad row is a row with an error."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import make_reviews

import edge_imdb
from edge_imdb.data.tables import iter_texts
from edge_imdb.errors import EdgeImdbError, InputError, UsageError

pyarrow = pytest.importorskip("pyarrow", reason="score needs pyarrow")
from pyarrow import parquet  # noqa: E402

ROWS = [{"text": text[:50], "n": number} for number, (text, _) in enumerate(make_reviews(12))]
ROWS[3]["text"] = 'It said "no", twice,\nand\twas ünë: 好'


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)  # type: ignore[no-any-return]


def table(delimiter: str) -> bytes:
    lines = [f"text{delimiter}n"]
    lines += ['"{}"{}{}'.format(str(row["text"]).replace('"', '""'), delimiter, row["n"]) for row in ROWS]
    return ("\n".join(lines) + "\n").encode()


def parquet_bytes() -> bytes:
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(ROWS), sink, row_group_size=5)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
CONTENT = {
    "csv": table(","),
    "tsv": table("\t"),
    "jsonl": LINES,
    "json": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "parquet": parquet_bytes(),
}


def read(path: Path) -> list[dict[str, Any]]:
    """A file that score wrote, whatever kind it is."""
    if path.suffix == ".parquet":
        return list(parquet.read_table(path).to_pylist())
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    elif path.suffix == ".zst":
        with pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd") as stream:
            data = stream.read()
    text = data.decode("utf-8")
    if ".jsonl" in path.name:
        return [json.loads(line) for line in text.splitlines()]
    rows = csv.DictReader(text.splitlines(keepends=True), delimiter="\t" if ".tsv" in path.name else ",")
    return [{name: value or None for name, value in row.items()} for row in rows]


@pytest.fixture(scope="module")
def expected() -> list[dict[str, Any]]:
    sentiment = edge_imdb.Sentiment(threads=1)
    return [{**row, **sentiment(str(row["text"]))[0]} for row in ROWS]


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [*CONTENT])
def test_every_kind_of_input_gives_the_same_labels(
    kind: str, packed: str, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    if kind == "parquet" and packed:
        pytest.skip("is a compressed Parquet file")
    pack = {"": lambda data: data, ".gz": gzip.compress, ".zst": zstd}[packed]
    path = tmp_path / f"in.{kind}{packed}"
    path.write_bytes(pack(CONTENT[kind]))
    edge_imdb.score(path, tmp_path / "out", part_rows=5)
    rows = read_parts(tmp_path / "out")
    assert [(row["text"], row["label"], row["score"]) for row in rows] == [
        (row["text"], row["label"], row["score"]) for row in expected
    ]
    # CSV has no types, so its columns stay text.
    assert [row["n"] for row in rows] == [str(n) if kind in ("csv", "tsv") else n for n in range(12)]
    if not packed and kind in ("csv", "jsonl", "parquet"):
        assert [text for _, text in iter_texts(path)] == [row["text"] for row in rows], "as predict reads it"


def read_parts(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("part-*")) for row in read(path)]


@pytest.mark.parametrize("name", ["out.parquet", "out.csv", "out.tsv", "out.jsonl", "out.csv.gz", "out.jsonl.zst"])
def test_every_kind_of_output_holds_the_same_rows_in_order(
    name: str, expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "in.jsonl").write_bytes(LINES)
    edge_imdb.score(tmp_path / "in.jsonl", tmp_path / name, part_rows=5)
    rows = read(tmp_path / name)
    wanted = [{**row, "error": None} for row in expected]
    if ".csv" in name or ".tsv" in name:
        wanted = [{key: None if value is None else str(value) for key, value in row.items()} for row in wanted]
    assert rows == wanted
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["in.jsonl", name])


def test_several_files_and_folders_are_one_data_set_in_order(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "2.csv").write_text("text\nsecond\n")
    (tmp_path / "a" / "1.csv").write_text("text,extra\nfirst,x\n")
    (tmp_path / "a" / "_notes.csv").write_text("not this one")
    (tmp_path / "a" / "README.md").write_text("nor this one")
    (tmp_path / "0.txt").write_text("last\n")
    edge_imdb.score([tmp_path / "a", tmp_path / "0.txt"], tmp_path / "out.jsonl")
    rows = read(tmp_path / "out.jsonl")
    assert [(row["text"], row["extra"]) for row in rows] == [("first", "x"), ("second", None), ("last", None)]


def test_json_keeps_values_that_are_no_table(tmp_path: Path) -> None:
    rows = [
        {"text": "great film", "tags": ["a", {"b": 1}], "year": 1999, "stars": 3, "big": 2**80},
        {"text": "awful film", "tags": None, "year": "unknown", "stars": 3.5, "half": "\ud83d"},
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edge_imdb.score(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    one, two = read(tmp_path / "out.jsonl")
    assert (one["tags"], one["year"], one["stars"], one["big"]) == (["a", {"b": 1}], 1999, 3.0, 2**80)
    assert (two["tags"], two["year"], two["stars"], two["half"]) == (None, "unknown", 3.5, "?")
    assert (one["label"], two["label"]) == ("pos", "neg")


# --- bad rows, and rows that predict takes and leaves


@pytest.mark.parametrize(
    ("name", "content", "errors"),
    [
        ("in.csv", b"text,n\ngreat,1\none,two,three\n,2\nnice,3\n", {1: "(3, not 2)", 2: "blank"}),
        ("in.csv", b'text,n\ngreat,1\n"x"y,2\nnice,3\n', {1: "not valid CSV"}),
        ("in.csv", b"text,n\ngreat,1\n\nbad \xff byte,2\nnice,3\n", {1: "not UTF-8 (byte 0xff)"}),
        ("in.csv", b'text,n\ngreat,1\n"cut sho', {1: "not valid CSV"}),
        ("in.jsonl", b'{"text": "great"}\n[1]\n\n{"text": 3}\n{"n": 1}\n{"text": "ni', {
            1: "not a JSON object", 2: "has 3: a text is needed", 3: "has nothing", 4: "the file ends within it"}),
        ("in.jsonl", b'{"text": "great"}\n{"text": "\xff"}\n{"text": "nice"}\n', {1: "not UTF-8"}),
        ("in.txt", b"great\n\n <br /> \nbad \xe9\nnice", {1: "blank", 2: "blank", 3: "not UTF-8"}),
        ("in.json", b'[{"text": "great"}, 7, {"text": null}]', {1: "not a JSON object", 2: "has nothing"}),
    ],
)  # fmt: skip
def test_a_bad_row_is_a_row_with_an_error_in_its_place(
    name: str, content: bytes, errors: dict[int, str], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    summary = edge_imdb.score(tmp_path / name, tmp_path / "out.jsonl", part_rows=2)
    rows = read(tmp_path / "out.jsonl")
    assert summary.errors == len(errors)
    for number, row in enumerate(rows):
        if number in errors:
            assert errors[number] in row["error"] and row["label"] is None
        else:
            assert row["error"] is None and row["label"] is not None
    with pytest.raises(InputError, match=rf"{name} (line|row) \d+: "):
        edge_imdb.score(tmp_path / name, tmp_path / "strict", strict=True)


def test_a_null_in_parquet_is_a_row_with_an_error(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": ["great", None]}), tmp_path / "in.parquet")
    assert edge_imdb.score(tmp_path / "in.parquet", tmp_path / "out.csv").errors == 1


# --- files that can't be used


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("in.parquet", CONTENT["parquet"][:-20], "is not a readable Parquet file to its end"),
        ("in.parquet", CONTENT["parquet"][:400] + bytes(40) + CONTENT["parquet"][440:], "Parquet"),
        ("in.parquet", b"", "Parquet"),
        ("in.csv.gz", gzip.compress(CONTENT["csv"] * 50)[:-30], "is damaged or not a gzip file"),
        ("in.csv.gz", CONTENT["csv"], "is damaged or not a gzip file"),
        ("in.csv.zst", zstd(CONTENT["csv"] * 50)[:-30], "is damaged or not a zstd file"),
        ("in.json", CONTENT["json"][:-40], "is not valid JSON, or the array has no end"),
        ("in.csv", b"", "has no rows"),
        ("in.csv", b"text\n", "has no rows"),
        ("in.csv", b"text,text\na,b\n", "two columns named 'text'"),
        ("in.csv", b"review\na\n", r"has no column 'text': it has 'review'"),
        ("in.csv", b"te\xffxt\nfilm\n", "is not UTF-8"),
        ("in.xlsx", b"PK", r"of a kind that edge-imdb can't read \(.xlsx\)"),
        ("in.jsonl", b'{"text": 1}\n{"text": 2}\n', "not text"),
    ],
)
def test_a_file_that_cannot_be_used_is_one_sentence_and_leaves_nothing(
    name: str, content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        edge_imdb.score(tmp_path / name, tmp_path / "out")
    assert "\n" not in str(caught.value)
    if "Parquet" not in words or name != "in.parquet":
        assert [path.name for path in tmp_path.iterdir()] == [name]


def test_files_that_do_not_go_together_are_named(tmp_path: Path) -> None:
    for name, column in (("a", ["1"]), ("b", [1])):
        parquet.write_table(pyarrow.table({"text": ["great"], "n": column}), tmp_path / f"{name}.parquet")
    with pytest.raises(InputError, match=r"Column 'n' is string in .*a\.parquet and int64 in .*b\.parquet"):
        edge_imdb.score([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out")
    with pytest.raises(InputError, match="is given twice"):
        edge_imdb.score([tmp_path / "a.parquet", tmp_path / "a.parquet"], tmp_path / "out")
    with pytest.raises(InputError, match="no file or folder"):
        edge_imdb.score(tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize("name", ["out.json", "out.txt", "out.parquet.gz", "out.xlsx", "out.gz"])
def test_a_kind_of_output_that_is_not_written_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\ngreat\n")
    with pytest.raises(UsageError, match="an extension that can't be written"):
        edge_imdb.score(tmp_path / "in.csv", tmp_path / name)


def test_a_store_of_fsspec_holds_the_same_parts_as_a_disk(tmp_path: Path) -> None:
    """The store is fsspec's own in memory; S3 is tested where Ray is."""
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    system.pipe_file("/in/a.jsonl", LINES)
    edge_imdb.score("memory://in/a.jsonl", "memory://out", part_rows=5)
    edge_imdb.score("memory://in/", "memory://out.csv", part_rows=5)
    (tmp_path / "a.jsonl").write_bytes(LINES)
    edge_imdb.score(tmp_path / "a.jsonl", tmp_path / "out", part_rows=5)
    edge_imdb.score(tmp_path / "a.jsonl", tmp_path / "out.csv", part_rows=5)
    for path in (tmp_path / "out").glob("part-*"):
        assert system.cat_file(f"/out/{path.name}") == path.read_bytes()
    assert system.cat_file("/out.csv") == (tmp_path / "out.csv").read_bytes()
    assert not system.exists("/out.csv.parts") and not system.exists("/out/_writer.json")
    with pytest.raises(EdgeImdbError, match="no file or folder memory://nowhere"):
        edge_imdb.score("memory://nowhere", tmp_path / "x")
