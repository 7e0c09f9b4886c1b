"""Labels and texts are the same from every kind of file, from a file and from a folder, beside every other data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import make_reviews, write_csv

from edge_imdb.data.corpus import load_corpus
from edge_imdb.data.datasets import read_reviews, read_texts
from edge_imdb.errors import DataError, EdgeImdbError, InputError, SplitError

pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
from pyarrow import parquet  # noqa: E402

KINDS = ("csv", "tsv", "jsonl", "json", "parquet")


def save(path: Path, columns: dict[str, list[Any]]) -> Path:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        sign = "," if path.suffix == ".csv" else "\t"
        lines = [sign.join(columns), *(sign.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("labels", "names", "indices"),
    [
        ([1.0, 0.0, 1.0], ["0", "1"], [1, 0, 1]),
        ([1, 0, 2], ["0", "1", "2"], [1, 0, 2]),
        ([True, False, True], ["False", "True"], [1, 0, 1]),
        (["pos", "neg", "pos"], ["neg", "pos"], [1, 0, 1]),
        (["007", "008", "007"], ["007", "008"], [0, 1, 0]),
    ],
)
def test_labels_are_the_same_from_every_kind_of_file_and_from_a_folder(
    tmp_path: Path, kind: str, folder: bool, labels: list[Any], names: list[str], indices: list[int]
) -> None:
    path = save(tmp_path / f"train.{kind}", {"text": ["fine", "null", "NA"], "label": labels})
    if folder:
        pytest.importorskip("datasets", reason="datasets is not installed")
    reviews = read_reviews(str(tmp_path if folder else path), "train")
    assert (reviews.names, reviews.labels, reviews.texts) == (names, indices, ["fine", "null", "NA"])
    assert read_texts(str(tmp_path if folder else path), "train") == reviews.texts


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_and_booleans_are_indices_of_a_models_labels(tmp_path: Path, kind: str) -> None:
    for number, labels in enumerate(([1.0, 0.0], [1, 0], [True, False])):
        path = save(tmp_path / f"{number}.{kind}", {"text": ["fine", "dull"], "label": labels})
        assert read_reviews(str(path), "test", names=["neg", "pos"]).labels == [1, 0]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
@pytest.mark.parametrize("label", [[0], {"a": 0}, 1.5, None, float("nan"), ""])
@pytest.mark.parametrize("folder", [False, True])
def test_what_is_no_label_is_refused_with_its_row(tmp_path: Path, kind: str, label: Any, folder: bool) -> None:
    path = save(tmp_path / f"train.{kind}", {"text": ["fine", "dull"], "label": [label, label]})
    with pytest.raises(DataError, match=r"train\.\w+ (line|row) 1 has (the|no) label.*: use a word or a whole number"):
        read_reviews(str(tmp_path if folder else path), "train")


def test_a_fraction_in_csv_is_refused_as_in_json(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", [("fine", "4"), ("dull", "1.5")])
    with pytest.raises(DataError, match=r"r\.csv line 3 has the label 1\.5"):
        read_reviews(str(path), "train")


@pytest.mark.parametrize("words", [("negative", "positive"), ("Neg", "Pos"), ("NEGATIVE", "POSITIVE")])
@pytest.mark.parametrize("folder", [False, True])
def test_words_of_another_data_set_count_as_the_labels_that_they_begin_or_continue(
    tmp_path: Path, words: tuple[str, str], folder: bool
) -> None:
    one, two = tmp_path / "one.csv", tmp_path / "two"
    two.mkdir()
    write_csv(one, make_reviews(40))
    renamed = {"neg": words[0], "pos": words[1]}
    write_csv(two / "train.csv", [(text, renamed[label]) for text, label in make_reviews(40, 1)])
    other = two if folder else two / "train.csv"
    options = {"data": [str(one), str(other)], "text_column": "text", "label_column": "label", "test_data": None,
               "validation": 0.2, "limit": None, "seed": 0, "delimiter": None}  # fmt: skip
    corpus = load_corpus(options)
    assert corpus.train.names == ["neg", "pos"] and set(corpus.train.labels) == {0, 1}
    # The other way round too: the first data set has the long words.
    assert load_corpus({**options, "data": [str(other), str(one)]}).train.names == list(words)


def test_a_word_that_could_be_two_labels_is_unknown(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "r.csv", [("fine", "po")])
    with pytest.raises(DataError, match="unknown label 'po': use 'poor', 'pos'"):
        read_reviews(str(path), "test", names=["poor", "pos"])
    path = write_csv(tmp_path / "r.csv", [("fine", "12"), ("dull", "x")])
    with pytest.raises(DataError, match="unknown label '12'"):
        read_reviews(str(path), "test", names=["1", "x"])


def test_a_folder_keeps_the_names_that_its_card_or_parquet_declares(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg", "odd"])}
    )
    table = datasets.Dataset.from_dict({"text": ["fine", "dull"], "label": [0, 1]}, features=features)
    table.to_parquet(tmp_path / "train.parquet")
    for data in (tmp_path / "train.parquet", tmp_path):
        reviews = read_reviews(str(data), "train")
        assert (reviews.names, reviews.labels) == (["pos", "neg", "odd"], [0, 1])
    (tmp_path / "train.parquet").unlink()
    write_csv(tmp_path / "test.csv", [("fine", "1"), ("dull", "0")])
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n  - name: label\n    dtype:\n"
        "      class_label:\n        names:\n          '0': bad\n          '1': good\n---\n"
    )
    assert read_reviews(str(tmp_path), "test").names == ["bad", "good"]


def test_hidden_files_of_a_folder_are_no_data_and_a_missing_split_is_named(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="datasets is not installed")
    for folder in (".ipynb_checkpoints", "_temporary"):
        (tmp_path / folder).mkdir()
        write_csv(tmp_path / folder / "train.csv", [("copy", "pos")])
    write_csv(tmp_path / "train.csv", [("fine", "pos"), ("dull", "neg")])
    assert read_texts(str(tmp_path), "train") == ["fine", "dull"]
    with pytest.raises(SplitError, match="has no split 'test'"):
        read_reviews(str(tmp_path), "test")


@pytest.mark.parametrize("folder", [False, True])
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_two_columns_of_one_name_are_refused_by_training_too(tmp_path: Path, kind: str, folder: bool) -> None:
    content = {"csv": "text,label,text\na,pos,b\n", "jsonl": '{"text": "a", "label": "pos", "text": "b"}\n'}[kind]
    (tmp_path / f"train.{kind}").write_text(content)
    data = tmp_path if folder else tmp_path / f"train.{kind}"
    with pytest.raises((InputError, EdgeImdbError), match=r"has two (columns|values) named 'text'"):
        read_reviews(str(data), "train")


def test_columns_that_training_does_not_need_stop_nothing(tmp_path: Path) -> None:
    columns = {
        "text": pyarrow.array(["fine", "dull"]),
        "label": pyarrow.array(["pos", "neg"]).dictionary_encode(),
        "day": pyarrow.array([2932897, 1], pyarrow.date32()),
        "at": pyarrow.array([1, 2], pyarrow.timestamp("ns")),
        "clock": pyarrow.array([1, 2], pyarrow.time64("ns")),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "train.parquet")
    for data in (tmp_path / "train.parquet", tmp_path):
        assert read_reviews(str(data), "train").labels == [1, 0]
