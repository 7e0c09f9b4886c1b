"""The page's reader and writer of files, run in Node and compared with Python's."""

from __future__ import annotations

import base64
import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_web import in_node, needs_node

from edge_imdb.data.tables import is_table, iter_rows, iter_texts
from edge_imdb.errors import EdgeImdbError

pytestmark = needs_node

# Cells come as [source] if they are neither strings nor null.
READ = """
    const plain = (cell) => (cell instanceof files.Raw ? [cell.source] : cell);
    const read = [];
    for (const [name, content] of given) {
      try {
        const table = await files.read(name, new Blob([Buffer.from(content, "base64")]));
        const { columns, rows, places, likely } = table;
        read.push({ columns, rows: rows.map((row) => row.map(plain)), places, likely });
      } catch (error) {
        read.push(`${error.name}: ${error.message}`);
      }
    }
    return read;"""


def in_page(*files: tuple[str, bytes | str]) -> list[Any]:
    """For each file its table, or ``"Error: …"``."""
    contents = [content.encode() if isinstance(content, str) else content for _, content in files]
    encoded = [(name, base64.b64encode(content).decode()) for (name, _), content in zip(files, contents, strict=True)]
    read: list[Any] = in_node(READ, encoded, "files")
    return read


@pytest.mark.parametrize(
    ("name", "content", "columns", "rows"),
    [
        ("a.json", '[{"text":"great film"}]', ["text"], [["great film"]]),
        ("a.json", ' [ ] ', None, "a.json has no rows: give a file with at least one review."),
        ("a.json", '{"text": "a"}\n\n{"text": "b"}\n', ["text"], [["a"], ["b"]]),
        ("a.jsonl", '[{"text": "a"}, {"id": 5}]', ["text", "id"], [["a", None], [None, ["5"]]]),
        # Values that JavaScript would change: long integers, digits of a number, keys that look like indices
        (
            "a.jsonl",
            '{"id": 12345678901234567890123, "x": 1.10, "text": "a", "2": "b", "__proto__": "c"}',
            ["id", "x", "text", "2", "__proto__"],
            [[["12345678901234567890123"], ["1.10"], "a", "b", "c"]],
        ),
        (
            "a.ndjson",
            '{"text": "\\u00e9\\n\\"", "n": NaN, "i": -Infinity, "l": [1, {"a": "]"}], "t": true, "z": null}',
            ["text", "n", "i", "l", "t", "z"],
            [['é\n"', ["NaN"], ["-Infinity"], ['[1, {"a": "]"}]'], ["true"], None]],
        ),
        ("a.jsonl", '{"text": "a"}\nnull\n', None, 'a.jsonl line 2 is not a JSON object: write one such as {"text": '),
        ("a.jsonl", '{"text": "a"}\r"b"', None, "a.jsonl line 2 is not a JSON object"),
        ("a.jsonl", '{"text": "a"} {"text": "b"}', None, "a.jsonl line 1 is not a JSON object"),
        ("a.jsonl", '{"text": "tab\there"}', None, "a.jsonl line 1 is not a JSON object"),
        ("a.jsonl", '{"text": ' + "[" * 5000 + "]" * 5000 + "}", None, "a.jsonl line 1 is not a JSON object"),
        ("a.json", '[{"text": "a"}, "b"]', None, "a.json row 2 is not a JSON object"),
        ("a.json", '[{"text": "a"} {"text": "b"}]', None, "a.json row 1 isn't followed by a comma"),
        ("a.json", '[{"text": "a"}', None, "a.json row 1 isn't followed by a comma or by the end of the array"),
        ("a.json", '[{"text": 01}]', None, "a.json row 1 is not valid JSON"),
        ("a.json", '[{"text": "a"}] x', None, "a.json has text after its array"),
        # CSV
        ("a.csv", 'id,text\n1,"""no"",\n"\n2, a ', ["id", "text"], [["1", '"no",\n'], ["2", " a "]]),
        ("a.csv", "id,text\r1,a\r\r2,b\r", ["id", "text"], [["1", "a"], ["2", "b"]]),
        ("a.csv", 'text\n""\n\n"a"', ["text"], [[""], ["a"]]),
        ("a.csv", "text,id\na,\n", ["text", "id"], [["a", ""]]),
        ("a.csv", "text,id\na,", ["text", "id"], [["a", ""]]),
        ("a.csv", "id;text\n1;a, b\n", ["id", "text"], [["1", "a, b"]]),
        ("a.tsv", 'id\ttext\n1\ta, "b"\n', ["id", "text"], [["1", 'a, "b"']]),
        (
            "a.csv",
            "id,text\n1,good, but long\n",
            None,
            'a.csv line 2 has 3 fields, but the header has 2: put texts that hold "," between double quotes.',
        ),
        ("a.csv", "id,text\n1,a\n2\n", None, "a.csv line 3 has 1 fields, but the header has 2"),
        ("a.csv", 'id,text\n1,a\n2,"a stray quote\n3,b\n', None, "a.csv line 3: the quote that begins here has no end"),
        ("a.csv", 'id,text\n1,"a\nb" c\n', None, "a.csv line 3 has text behind a closing quote"),
        ("a.csv", "text,id,text\na,1,b\n", None, 'a.csv has two columns named "text": give each its own name.'),
        ("a.csv", "text\n", None, "a.csv has no rows"),
        # Text
        ("a.txt", "a\r\nb\rc\n\nd", ["text"], [["a"], ["b"], ["c"], [""], ["d"]]),
        ("a.LOG", "a,b", ["text"], [["a,b"]]),
        ("reviews", "a\n", ["text"], [["a"]]),
        # Encodings and compression
        ("a.csv", "\ufefftext\né\n".encode(), ["text"], [["é"]]),
        ("a.csv", "text\né\n".encode("utf-16"), ["text"], [["é"]]),
        ("a.txt", b"\xfe\xff" + "é".encode("utf-16-be"), ["text"], [["é"]]),
        ("a.txt", "caf\u00e9".encode("latin-1"), None, "a.txt is not UTF-8: save it as UTF-8 and try again."),
        ("a.txt", b"\xff\xfea", None, "a.txt is not UTF-16, as its first bytes say"),
        ("a.csv.gz", gzip.compress(b"text\na\n", mtime=0), ["text"], [["a"]]),
        ("a.csv.gz", b"text\na\n", None, "a.csv.gz is damaged or not a gzip file: make it again."),
        ("a.parquet", b"PAR1", None, "a.parquet is of a kind that this page can't read (.parquet): use edge-imdb"),
        ("a.xlsx", b"PK", None, "a.xlsx is of a kind that this page can't read (.xlsx): use .csv"),
    ],
)  # fmt: skip
def test_a_file_is_read_or_refused_with_a_reason(
    name: str, content: bytes | str, columns: list[str] | None, rows: Any
) -> None:
    [read] = in_page((name, content))
    if columns is None:
        assert read.startswith(f"Error: {rows}")
    else:
        assert (read["columns"], read["rows"]) == (columns, rows)


def test_a_row_has_the_line_on_which_it_begins() -> None:
    [read] = in_page(("a.csv", 'text\n"a\nb"\n\nc\n'))
    assert read["places"] == ["line 2", "line 5"]
    [read] = in_page(("a.jsonl", '{"text": "a"}\n\n{"text": "b"}'))
    assert read["places"] == ["line 1", "line 3"]


def test_only_texts_are_labelled_and_null_is_blank() -> None:
    script = """
        const table = files.parse("a.jsonl", new TextEncoder().encode(given));
        const all = [];
        for (const column of [0, 1]) {
          try { all.push(files.textsOf("a.jsonl", table, column)); } catch (error) { all.push(error.message); }
        }
        return all;"""
    found = in_node(script, '{"text": "a", "n": null}\n{"text": null, "n": 5}', "files")
    assert found == [["a", ""], 'a.jsonl line 2 has 5 in column "n": a text is needed.']


def rendered(columns: list[str], rows: list[list[str | None]], results: list[Any]) -> list[list[str]]:
    text = in_node("return files.render(...given);", [columns, rows, results], "files")
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def test_results_are_written_behind_the_columns() -> None:
    rows: list[list[str | None]] = [
        ["1", 'He said "no",\nthen left.'],
        ["2", " plain "],
        [None, "a\rb"],
        ["4", "\r\n,"],
    ]
    found = rendered(["id", "review"], rows, [{"label": "pos", "score": 0.5}, None, None, None])
    assert found[0] == ["id", "review", "label", "score"]
    assert found[1] == ["1", 'He said "no",\nthen left.', "pos", "0.5000"]
    assert found[2:] == [["2", " plain ", "", ""], ["", "a\rb", "", ""], ["4", "\r\n,", "", ""]]


@pytest.mark.parametrize(
    ("columns", "added"),
    [
        (["text", "label", "score"], ["predicted_label", "predicted_score"]),
        (["text", "score"], ["predicted_label", "predicted_score"]),
        (["label", "predicted_score"], ["predicted_predicted_label", "predicted_predicted_score"]),
        (["text", "Label"], ["label", "score"]),
    ],
)
def test_columns_of_the_input_keep_their_names(columns: list[str], added: list[str]) -> None:
    [header, row] = rendered(columns, [["a"] * len(columns)], [{"label": "neg", "score": 0.9}])
    assert header == [*columns, *added] and row == [*["a"] * len(columns), "neg", "0.9000"]


def test_json_values_are_written_to_csv_as_edge_imdb_score_writes_them() -> None:
    script = """
        const { columns, rows } = files.parse("a.jsonl", new TextEncoder().encode(given));
        return files.render(columns, rows, []);"""
    line = '{"id": 9007199254740993, "t": true, "l": [1, "a"], "n": NaN, "z": null, "text": "a"}'
    text = in_node(script, line, "files")
    [row] = csv.DictReader(io.StringIO(text, newline=""))
    assert row == {
        "id": "9007199254740993",
        "t": "true",
        "l": '[1, "a"]',
        "n": "",
        "z": "",
        "text": "a",
        "label": "",
        "score": "",
    }


# --- The same as in Python

PIECES = ["a", "great film", '"', '""', '"x"', ",", "\n", "\r\n", "\r", " ", "é", "\t", "text", "1"]
CSV_LINES = st.lists(st.sampled_from(PIECES), max_size=20).map(lambda pieces: "id,text\n" + "".join(pieces))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
RECORDS = st.dictionaries(st.sampled_from(["text", "id", "x", ""]), VALUES, min_size=1, max_size=4).map(json.dumps)
SPOILT = st.sampled_from(
    ["{", "null", '{"a": 1,}', '{"a" 1}', "[]", "", " ", '{"a": .5}', '{"a": "\\x"}', '{"a": 1} 2']
)
JSON_LINES = st.lists(RECORDS | SPOILT, max_size=4).map("\n".join)
ARRAYS = st.lists(RECORDS | RECORDS | SPOILT, max_size=4).map(lambda parts: f"[{', '.join(parts)}]")
FILES = st.one_of(
    *(
        st.tuples(st.just(name), content)
        for name, content in (
            ("a.csv", CSV_LINES),
            ("a.tsv", CSV_LINES.map(lambda text: text.replace(",", "\t"))),
            ("a.jsonl", JSON_LINES),
            ("a.json", ARRAYS | JSON_LINES),
            ("a.txt", st.lists(st.sampled_from([*PIECES, "\ufeff"])).map("".join)),
        )
    )
)


def in_python(path: Path) -> list[dict[str, Any]] | None:
    """The rows as Python reads them, None if it refuses the file."""
    try:
        if is_table(path):
            return [row for _, row in iter_rows(path)]
        return [{"text": text} for _, text in iter_texts(path)]
    except EdgeImdbError:
        return None


def value_of(cell: Any) -> Any:
    return json.loads(cell[0]) if isinstance(cell, list) else cell


@given(st.lists(FILES, min_size=60, max_size=60))
@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_page_reads_what_python_reads(tmp_path: Path, files: list[tuple[str, str]]) -> None:
    for (name, content), read in zip(files, in_page(*files), strict=True):
        (tmp_path / name).write_text(content, encoding="utf-8", newline="")
        expected = in_python(tmp_path / name)
        if isinstance(read, str):
            # The reader in Python has no rows where the page says that there are none.
            assert not expected, (name, content, read)
        elif expected is not None:
            for cells, row in zip(read["rows"], expected, strict=True):
                found = dict(zip(read["columns"], map(value_of, cells), strict=True))
                full = {column: row.get(column) for column in read["columns"]}
                assert json.dumps(found) == json.dumps(full), (name, content)
