"""Files and folders as other programs leave them: nothing is read twice, misread, lost or written wrongly."""

from __future__ import annotations

import csv
import io
import json
import ntpath
import os
import signal
import subprocess
import threading
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import make_reviews
from test_tables import piped

import edge_imdb
from edge_imdb.cli import score as score_command
from edge_imdb.cli.main import cli
from edge_imdb.data.tables import Rows, csv_line, iter_rows, iter_texts
from edge_imdb.errors import EdgeImdbError, InputError, UsageError
from edge_imdb.scoring import storage
from edge_imdb.scoring.inputs import find_inputs
from edge_imdb.scoring.job import find_target

pyarrow = pytest.importorskip("pyarrow", reason="score needs pyarrow")
from pyarrow import parquet  # noqa: E402


def names(folder: Path, *inputs: str) -> list[str]:
    return [os.path.relpath(source.name, folder) for source in find_inputs([str(folder / name) for name in inputs])]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def strictly_json(path: Path) -> list[dict[str, Any]]:
    """JSON Lines without the NaN and Infinity that only Python reads."""
    return [json.loads(line, parse_constant=lambda word: pytest.fail(word)) for line in path.read_text().splitlines()]


# --- folders


def test_hidden_files_and_folders_are_no_data(tmp_path: Path) -> None:
    for name in (
        "in/r.csv",
        "in/.ipynb_checkpoints/r-checkpoint.csv",
        "in/_temporary/0/part.csv",
        "in/_delta_log/00000.json",
        "in/.r.csv.swp",
        "in/__MACOSX/._r.csv",
        "in/_SUCCESS",
        "in/deep/_x.csv",
        "in/_month=5/r.csv",
        "in/run.log",
        "in/README",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("text\ngreat\n")
    assert names(tmp_path, "in") == ["in/_month=5/r.csv", "in/r.csv"]
    # What is named is read, whatever its name.
    assert names(tmp_path, "in/.ipynb_checkpoints", "in/run.log", "in/README") == [
        "in/.ipynb_checkpoints/r-checkpoint.csv",
        "in/run.log",
        "in/README",
    ]
    fsspec = pytest.importorskip("fsspec")
    for name in ("/h/a.csv", "/h/_temporary/b.csv", "/h/.c/d.csv"):
        fsspec.filesystem("memory").pipe_file(name, b"text\ngreat\n")
    assert [source.name for source in find_inputs(["memory://h"])] == ["memory:///h/a.csv"]


def test_a_config_map_is_read_once(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap as links to ..data/NAME, where ..data links to a folder with a date."""
    (tmp_path / "..2024_11_28").mkdir()
    (tmp_path / "..2024_11_28" / "r.csv").write_text("text\ngreat\n")
    (tmp_path / "..data").symlink_to("..2024_11_28")
    (tmp_path / "r.csv").symlink_to("..data/r.csv")
    assert names(tmp_path, ".") == ["r.csv"]


def test_links_to_folders_are_followed_and_cycles_and_copies_are_told(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "b.csv").write_text("text\ngreat\n")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.csv").write_text("text\ngreat\n")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "other")
    (tmp_path / "in" / "cycle").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "z.csv").symlink_to("a.csv")
    os.mkfifo(tmp_path / "in" / "pipe.csv")
    said: list[str] = []
    found = find_inputs([str(tmp_path / "in")], say=said.append)
    assert [Path(source.name).name for source in found] == ["a.csv", "b.csv"]
    assert sorted(line.split(" is ")[1].split(" as ")[0] for line in said) == [
        "not a regular file: skipped.", "the same file", "the same folder", "the same folder",
    ]  # fmt: skip
    (tmp_path / "in" / "gone.csv").symlink_to("nowhere.csv")
    with pytest.raises(InputError, match=r"gone\.csv is a link to a file that doesn't exist"):
        find_inputs([str(tmp_path / "in")])


def test_one_file_under_two_names_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("text\ngreat\n")
    Path("b.csv").symlink_to("a.csv")
    for other in ("./a.csv", str(tmp_path / "a.csv"), "b.csv", f"../{tmp_path.name}/a.csv", "."):
        with pytest.raises(InputError, match="is given twice"):
            find_inputs(["a.csv", other])
    with pytest.raises(InputError, match=r"\./a\.csv is given twice \(also as a\.csv\): name each file once"):
        find_inputs(["a.csv", "./a.csv"])


def test_a_delta_table_says_that_removed_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "a.csv").write_text("text\ngreat\n")
    said: list[str] = []
    find_inputs([str(tmp_path)], say=said.append)
    assert said == [f"{tmp_path} is a Delta table: files that its log has removed are read too."]


def test_columns_in_the_names_of_folders_are_kept(tmp_path: Path) -> None:
    for lang, place in (("en", "S%C3%A3o"), ("__HIVE_DEFAULT_PARTITION__", "x")):
        folder = tmp_path / "in" / f"lang={lang}" / f"place={place}"
        folder.mkdir(parents=True)
        parquet.write_table(pyarrow.table({"text": ["great film"]}), folder / "a.parquet")
    (tmp_path / "in" / "b.csv").write_text("text,lang\nawful film,de\n")
    edge_imdb.score(tmp_path / "in", tmp_path / "out.jsonl")
    assert sorted((row["text"], row["lang"] or "", row["place"] or "") for row in lines(tmp_path / "out.jsonl")) == [
        ("awful film", "de", ""), ("great film", "", "x"), ("great film", "en", "São"),
    ]  # fmt: skip
    one = next((tmp_path / "in").rglob("lang=en/*/a.parquet"))
    assert next(iter_rows(one))[1]["lang"] == "en"
    # A row counts as another one if it moved to another partition.
    edge_imdb.score(one, tmp_path / "parts")
    one.rename(tmp_path / "in" / "lang=__HIVE_DEFAULT_PARTITION__" / "a.parquet")
    with pytest.raises(EdgeImdbError, match="name other columns or values"):
        edge_imdb.score(tmp_path / "in" / "lang=__HIVE_DEFAULT_PARTITION__" / "a.parquet", tmp_path / "parts")


# --- bad rows


def read(content: bytes, kind: str = "csv") -> list[tuple[str, dict[str, Any], bool]]:
    rows = Rows(io.BufferedReader(io.BytesIO(content)), kind, "f")
    return [(row.position, row.values, row.error is not None) for row in rows]


@pytest.mark.parametrize("quoted_row", [None, 5, 150, 298])
@pytest.mark.parametrize("everything", [False, True])
def test_one_stray_quote_costs_one_row(tmp_path: Path, quoted_row: int | None, everything: bool) -> None:
    rows = [[str(number), f"a great film {number}"] for number in range(1, 301)]
    if quoted_row:
        rows[quoted_row][1] = 'nice, "really"\nand more'
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL if everything else csv.QUOTE_MINIMAL, lineterminator="\n").writerows(
        [["id", "text"], *rows]
    )
    content = text.getvalue()
    whole = f'"2","{rows[1][1]}"' if everything else f"2,{rows[1][1]}"
    stray = '"2","a great film with one stray quote' if everything else '2,"a great film with one stray quote'
    assert whole in content
    found = read(content.replace(whole + "\n", stray + "\n").encode())
    assert len(found) == 300
    assert found[1] == ("line 3", {"id": "2", "text": "a great film with one stray quote"}, True)
    del found[1], rows[1]
    assert [list(values.values()) for _, values, _ in found] == rows and not any(bad for *_, bad in found)


def test_a_stray_quote_keeps_its_row_in_the_output_and_strict_names_its_line(tmp_path: Path) -> None:
    rows = "".join(f"{number},a great film\n" for number in range(3, 30))
    (tmp_path / "in.csv").write_text(f'id,text\n1,fine\n2,"a great film with one stray quote\n{rows}')
    summary = edge_imdb.score(tmp_path / "in.csv", tmp_path / "out.jsonl", part_rows=2)
    found = lines(tmp_path / "out.jsonl")
    assert (summary.rows, summary.errors) == (29, 1) and [row["id"] for row in found] == [str(n) for n in range(1, 30)]
    assert found[1]["text"] == "a great film with one stray quote" and "opens a quote" in found[1]["error"]
    assert found[1]["label"] is None and all(row["label"] for row in found if row["id"] != "2")
    with pytest.raises(InputError, match=r"in\.csv line 3: The row is not valid CSV"):
        edge_imdb.score(tmp_path / "in.csv", tmp_path / "strict", strict=True)
    with pytest.raises(InputError, match=r"in\.csv line 3 is not valid CSV"):
        list(iter_texts(tmp_path / "in.csv"))


@pytest.mark.parametrize("delimiter", [",", ";"])
def test_quoted_fields_of_many_lines_are_never_taken_apart(delimiter: str) -> None:
    rows = [["1", "a\nb,c\nd"], ["2", "x,y\nx,y\nx,y"], ["3", 'he said "no"\r\n\r\nand\rleft'], ["4", "fine"]]
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([["id", "text"], *rows])
    found = Rows(io.BufferedReader(io.BytesIO(text.getvalue().encode())), "csv", "f", delimiter)
    assert [list(row.values.values()) for row in found] == rows


def test_lines_inside_a_torn_record_become_rows_only_if_nothing_speaks_against_it() -> None:
    # A text of several lines with quotes that aren't doubled: its second line looks like a row, but has a quote.
    assert [bad for *_, bad in read(b'id,text\n3,"multi\nline "quoted", text"\n4,ok\n')] == [True, True, False]
    # A field too many behind a text of several lines is one bad row, and not three.
    assert read(b'id,text\n1,"a\nb\nc",x\n2,ok\n')[0][2] and len(read(b'id,text\n1,"a\nb\nc",x\n2,ok\n')) == 2


@pytest.mark.parametrize(
    ("name", "content", "kept"),
    [
        ("in.csv", b"id,text\n7,great, really\n8,ok\n", {"id": "7", "text": "great, really"}),
        ("in.csv", b"id,text\n7,caf\xe9\n8,ok\n", {"id": "7", "text": "caf\ufffd"}),
        ("in.csv", b"id,text\n7\n8,ok\n", {"id": "7", "text": None}),
        ("in.jsonl", b'{"id": "7", "text": "a", "text": "b"}\n{"id": "8", "text": "ok"}\n', {"id": "7", "text": "b"}),
        ("in.jsonl", b'{"id": "7", "te\n{"id": "8", "text": "ok"}\n', {"id": None, "text": '{"id": "7", "te'}),
        ("in.txt", b"caf\xe9\nok\n", {"text": "caf\ufffd"}),
    ],
)
def test_a_bad_row_keeps_what_could_be_read(
    name: str, content: bytes, kept: dict[str, str | None], tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    edge_imdb.score(tmp_path / name, tmp_path / "out.jsonl")
    bad, good = lines(tmp_path / "out.jsonl")
    assert {column: bad[column] for column in kept} == kept and bad["error"] and bad["label"] is None
    assert good["label"] and good["error"] is None


# --- columns


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("in.csv", b"text,n,text\na,1,b\n"),
        ("in.csv", b"text,n,n\na,1,2\n"),
        ("in.tsv", b"text\ttext\na\tb\n"),
        ("in.jsonl", b'{"text": "a", "text": "b"}\n'),
        ("in.json", b'[{"text": "a", "n": 1, "n": 2}]'),
        ("in.parquet", b""),
    ],
)
def test_two_columns_of_one_name_are_refused_everywhere(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if name == "in.parquet":
        arrays = [pyarrow.array(["a"]), pyarrow.array(["b"])]
        parquet.write_table(pyarrow.Table.from_arrays(arrays, names=["text", "text"]), path)
    with pytest.raises(InputError, match=r"two (columns|values) named '(text|n)'"):
        list(iter_texts(path))
    with pytest.raises(InputError, match=r"two (columns|values) named '(text|n)'"):
        edge_imdb.score(path, tmp_path / "out", strict=True)
    assert read(b"text,,\na,b,c\n")[0][1] == {"text": "a", "column_2": "b", "column_3": "c"}


def odd_columns() -> dict[str, Any]:
    return {
        "text": pyarrow.array(["great film", "awful film"]),
        "day": pyarrow.array([3000000, None], pyarrow.date32()),
        "at": pyarrow.array([1, 10**18 + 1], pyarrow.timestamp("ns")),
        "far": pyarrow.array([3 * 10**17, None], pyarrow.timestamp("us", tz="UTC")),
        "clock": pyarrow.array([1, 2], pyarrow.time64("ns")),
        "long": pyarrow.array([1, 2], pyarrow.duration("ns")),
        "price": pyarrow.array([Decimal("1.10"), None], pyarrow.decimal128(20, 2)),
        "blob": pyarrow.array([b"\xff\x00", None]),
        "ratio": pyarrow.array([float("nan"), float("inf")]),
        "deep": pyarrow.array([{"days": [10**6 * 3], "x": float("-inf")}, None],
                              pyarrow.struct([("days", pyarrow.list_(pyarrow.date32())), ("x", pyarrow.float64())])),
        "map": pyarrow.array([[("a", 1)], None], pyarrow.map_(pyarrow.string(), pyarrow.int64())),
        "kind": pyarrow.array(["x", "y"]).dictionary_encode(),
    }  # fmt: skip


def test_columns_that_nobody_needs_stop_nothing_and_lose_nothing(tmp_path: Path) -> None:
    table = pyarrow.table(odd_columns())
    parquet.write_table(table, tmp_path / "in.parquet")
    assert [text for _, text in iter_texts(tmp_path / "in.parquet")] == ["great film", "awful film"]
    for name in ("out.parquet", "out.jsonl", "out.csv"):
        assert edge_imdb.score(tmp_path / "in.parquet", tmp_path / name).errors == 0
    written = parquet.read_table(tmp_path / "out.parquet")
    for name in set(table.column_names) - {"kind", "ratio"}:
        assert written.column(name).equals(parquet.read_table(tmp_path / "in.parquet").column(name)), name
    first, second = strictly_json(tmp_path / "out.jsonl")
    wanted = {
        "day": "10183-09-21", "at": "1970-01-01T00:00:00.000000001", "far": "11476-09-08T13:20:00.000000Z",
        "clock": "00:00:00.000000001", "long": "1", "price": "1.10", "blob": "/wA=", "ratio": None,
        "deep": {"days": ["10183-09-21"], "x": None}, "map": [["a", 1]], "kind": "x",
    }  # fmt: skip
    assert {name: first[name] for name in wanted if name != "far"} == {
        name: value for name, value in wanted.items() if name != "far"
    }
    assert first["far"].startswith("114") and first["far"].endswith("Z") and second["at"].endswith("000000001")
    with (tmp_path / "out.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["day"], row["blob"], row["ratio"], json.loads(row["deep"])) == (
        first["day"], first["blob"], "", first["deep"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (pyarrow.string(), pyarrow.large_string(), "large_string"),
        (pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.string(), "string"),
        (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), pyarrow.large_string(), "large_string"),
        (pyarrow.int32(), pyarrow.int64(), "int64"),
        (pyarrow.float32(), pyarrow.float64(), "double"),
        (pyarrow.binary(), pyarrow.large_binary(), "large_binary"),
    ],
)
def test_types_that_hold_the_same_values_go_together(one: Any, other: Any, both: str, tmp_path: Path) -> None:
    value = {"int64": 1, "double": 1.5}.get(both, b"x" if "binary" in both else "x")
    for name, kind in (("a", one), ("b", other)):
        column = pyarrow.array([value]).cast(pyarrow.string() if value == "x" else kind)
        column = column.dictionary_encode() if pyarrow.types.is_dictionary(kind) else column.cast(kind)
        parquet.write_table(
            pyarrow.table({"text": pyarrow.array(["great"]).cast(kind) if value == "x" and "dict" not in str(kind)
                           else ["great"], "n": column}), tmp_path / f"{name}.parquet"
        )  # fmt: skip
    edge_imdb.score([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out.parquet")
    assert str(parquet.read_table(tmp_path / "out.parquet").schema.field("n").type) == both


# --- text


BOMLESS = "id,text\n1,great film\n2,café\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "txt"])
def test_encodings_and_line_ends_are_read_alike(encoding: str, end: str, kind: str, tmp_path: Path) -> None:
    texts = ["great film", "café", "awful film"]
    body = {
        "csv": ["id,text", *(f"{n},{text}" for n, text in enumerate(texts))],
        "txt": texts,
    }.get(kind, [json.dumps({"text": text}, ensure_ascii=False) for text in texts])
    path = tmp_path / f"in.{kind}"
    path.write_bytes((end.join(body) + end).encode(encoding))
    assert [text for _, text in iter_texts(path)] == texts
    (source,) = find_inputs([str(path)])
    with source.file.open() as file:
        rows = list(Rows(io.BufferedReader(file), source.format, source.name))  # type: ignore[type-var]
    assert [row.values["text"] for row in rows] == texts and not any(row.error for row in rows)


def test_json_lines_and_arrays_may_have_each_others_extension(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"text": "great"}\n{"text": "awful"}\n')
    (tmp_path / "b.jsonl").write_text('[\n {"text": "great"},\n {"text": "awful"}\n]\n')
    for name in ("a.json", "b.jsonl"):
        assert [text for _, text in iter_texts(tmp_path / name)] == ["great", "awful"]
        assert edge_imdb.score(tmp_path / name, f"{tmp_path}/{name}.out/").labels == {"neg": 1, "pos": 1}


def test_score_has_the_delimiter_and_the_hint_of_predict(tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("text;n\ngreat, really;1\n")
    hint = "its delimiter seems to be ';': give --delimiter ';'"
    for call in (lambda: list(iter_texts(path)), lambda: edge_imdb.score(path, tmp_path / "out")):
        with pytest.raises(InputError, match=hint):
            call()
    assert edge_imdb.score(path, tmp_path / "out", delimiter=";").labels == {"pos": 1}
    with pytest.raises(UsageError, match="A delimiter is for CSV and TSV"):
        find_inputs([str(tmp_path / "in.csv")], "jsonl", ";")
    (tmp_path / "in.log").write_text("great\n")
    assert find_inputs([str(tmp_path / "in.log")])[0].format == "text"


@pytest.mark.parametrize("value", ["a\rb", "a\nb", "a\r\nb", 'a"b', "a,b", "", " a ", "a\u2028b", "\r"])
def test_csv_that_is_written_is_read_as_it_was_whatever_the_python(value: str) -> None:
    for row in (["x", value], [value, "y"], [value]):
        assert next(csv.reader(io.StringIO(csv_line(row), newline=""), strict=True)) == row
    assert "\r" not in value or csv_line(["x", value]).count('"') == 2


def test_a_cr_in_a_value_survives_score(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "great\rfilm", "n": "a\r"}) + "\n")
    edge_imdb.score(tmp_path / "in.jsonl", tmp_path / "out.csv")
    assert [row["text"] for _, row in iter_rows(tmp_path / "out.csv")] == ["great\rfilm"]


def test_nan_in_json_is_null_in_json(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text(
        '{"text": "great", "a": NaN, "b": [Infinity]}\n{"text": "x", "a": 1.5, "b": 1}\n'
    )
    edge_imdb.score(tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert [(row["a"], row["b"]) for row in strictly_json(tmp_path / "out.jsonl")] == [(None, [None]), (1.5, 1)]


# --- pipes, outputs, signals


def test_pipes_are_copied_before_they_are_read_twice(tmp_path: Path) -> None:
    said: list[str] = []
    summary = edge_imdb.score(piped(b"text\ngreat\nawful\n"), tmp_path / "a.csv", input_format="csv", say=said.append)
    assert summary.rows == 2 and any("can't be read twice" in line for line in said)
    os.mkfifo(tmp_path / "in.csv")
    threading.Thread(target=lambda: (tmp_path / "in.csv").write_bytes(b"text\ngreat\n"), daemon=True).start()
    assert edge_imdb.score(tmp_path / "in.csv", tmp_path / "b.csv").rows == 1
    edge_imdb.score(piped(b"great\n"), tmp_path / "c.csv", say=said.append)
    assert "is read as text, a text per line: for a table, give --input-format" in said[-1]


def test_a_spooled_copy_is_closed_before_it_is_read_and_gone_afterwards() -> None:
    """Windows opens no temporary file a second time while it is open."""
    with storage.spooled(io.BytesIO(b"great\n"), "standard input") as file:
        held = {str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()}
        assert file.name not in held and Path(file.name).read_bytes() == b"great\n" and file.shown == "standard input"
    assert not Path(file.name).parent.exists()


@pytest.mark.parametrize("output", ["-", "/dev/stdout", "x.csv.bz2", "x.json", "x.csv.xz", "x.db", "x.csvv", "x.zip"])
def test_an_output_that_is_no_file_of_ours_and_no_folder_is_refused(output: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"give a\s+file or a folder|an extension that can't be written"):
        find_target(output if output[0] in "-/" else str(tmp_path / output))
    assert find_target(str(tmp_path / "x.v2")).file is None and find_target(f"{tmp_path}/x.db/").file is None


def test_paths_of_windows_are_split_at_both_separators() -> None:
    assert storage.base_name("C:\\data\\out.csv", ntpath) == storage.base_name("C:/data/out.csv", ntpath) == "out.csv"
    assert storage.trimmed("C:\\out\\", ntpath) == "C:\\out" and storage.trimmed("out\\", os.path) == "out\\"
    assert storage.base_name("s3://a/b\\c.csv", ntpath) == "b\\c.csv"


def test_sigterm_has_a_handler_that_says_how_to_continue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As process 1 of a container, a program without a handler isn't stopped by SIGTERM."""
    (tmp_path / "in.csv").write_text("text\ngreat\n")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def stopped(*_: object, **__: object) -> None:
        assert callable(signal.getsignal(signal.SIGTERM))
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr("edge_imdb.scoring.score", stopped)
    try:
        result = CliRunner().invoke(cli, ["score", str(tmp_path / "in.csv"), "--output", str(tmp_path / "out")])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert result.exit_code == 143 and "run the same command again to continue" in result.output
    assert score_command.BAD_ROWS == 3


def test_parts_are_the_same_bytes_whatever_was_read_before(tmp_path: Path) -> None:
    """Also with stray quotes and dictionaries, whose rows depend on what stands before them."""
    rows = [f'{number},"{text[:30]}' if number % 7 == 3 else f"{number},{text[:30]}"
            for number, (text, _) in enumerate(make_reviews(40))]  # fmt: skip
    (tmp_path / "in.csv").write_text("id,text\n" + "\n".join(rows) + "\n")
    columns = {"text": ["great", "awful"] * 20, "kind": pyarrow.array(["x", "y"] * 20).dictionary_encode()}
    parquet.write_table(pyarrow.table(columns), tmp_path / "in.parquet", row_group_size=9)
    for name in ("in.csv", "in.parquet"):
        out = tmp_path / f"{name}.out"
        edge_imdb.score(tmp_path / name, f"{out}/", part_rows=10)
        parts = {path.name: path.read_bytes() for path in out.glob("part-*")}
        for missing in sorted(parts):
            (out / missing).unlink()
            edge_imdb.score(tmp_path / name, f"{out}/", part_rows=10)
            assert (out / missing).read_bytes() == parts[missing]


def test_score_of_a_process_substitution(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\ngreat\nawful\n")
    program = f"import os, sys; os.chdir({str(tmp_path)!r}); from edge_imdb.cli.main import main; main()"
    command = f'{__import__("sys").executable} -c "{program}" score <(cat a.csv) --input-format csv --output out.csv'
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "2 rows" in done.stdout, done.stderr
