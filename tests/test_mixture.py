"""Training on several data sets: their splits, their weights, and figures for each apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import fill_options, make_reviews, tiny_options, write_csv

pytest.importorskip("torch", reason="PyTorch is not installed")

from edge_imdb.data.corpus import Corpus, load_corpus, load_texts
from edge_imdb.errors import UsageError
from edge_imdb.train.options import hyperparameters

NAMED = ("sentence", "label")


def make_folder(folder: Path, rows: list[tuple[str, str]], held: list[tuple[str, str]]) -> Path:
    """A data set in the Hub's layout, with a validation split of its own and other names for the labels."""
    (folder / "data").mkdir(parents=True)
    names = ("negative", "positive")
    for split, part in (("train", rows), ("validation", held)):
        write_csv(
            folder / "data" / f"{split}.csv", [(text, str(("neg", "pos").index(label))) for text, label in part], NAMED
        )
    files = "".join(f"  - split: {split}\n    path: data/{split}.csv\n" for split in ("train", "validation"))
    classes = "".join(f"          '{number}': {name}\n" for number, name in enumerate(names))
    (folder / "README.md").write_text(
        f"---\nconfigs:\n- config_name: default\n  data_files:\n{files}dataset_info:\n  features:\n  - name: sentence\n"
        f"    dtype: string\n  - name: label\n    dtype:\n      class_label:\n        names:\n{classes}---\n"
    )
    return folder


@pytest.fixture
def sets(tmp_path: Path) -> tuple[Path, Path]:
    """A file, and a folder with a validation split; three texts of its validation are also in the file."""
    rows = make_reviews(240)
    first = write_csv(tmp_path / "first.csv", rows)
    return first, make_folder(tmp_path / "second", make_reviews(80, 5), [*make_reviews(30, 6), *rows[:3]])


def corpus_of(sets: tuple[Path, Path], tmp_path: Path, **more: Any) -> Corpus:
    given = {"data": tuple(map(str, sets)), "text_column": ("text", "sentence"), "test_data": None, **more}
    return load_corpus(hyperparameters(tiny_options(tmp_path, sets, tmp_path, **given)))  # type: ignore[arg-type]


def test_each_data_set_is_validated_on_its_own_split_or_on_what_is_held_out(
    sets: tuple[Path, Path], tmp_path: Path
) -> None:
    corpus = corpus_of(sets, tmp_path)
    assert corpus.sources == [str(path) for path in sets] and corpus.train.names == ["neg", "pos"]
    held = {text for text, _ in [*make_reviews(30, 6), *make_reviews(240)[:3]]}
    second = [text for text, origin in zip(corpus.validation.texts, corpus.origins, strict=True) if origin == 1]
    assert set(second) == held and corpus.origins.count(0) >= 100 * 0.4
    assert corpus.train_rows[1] == 80 and sum(corpus.train_rows) == len(corpus.train.texts)


def test_labels_of_a_second_data_set_are_those_of_the_first(sets: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = corpus_of(sets, tmp_path)
    label_of = {**dict(make_reviews(80, 5)), **dict(make_reviews(240))}
    for text, label in zip(corpus.train.texts, corpus.train.labels, strict=True):
        assert ("neg", "pos")[label] == label_of[text]


def test_no_text_of_any_validation_is_trained_on(sets: tuple[Path, Path], tmp_path: Path) -> None:
    corpus = corpus_of(sets, tmp_path)
    assert not set(corpus.train.texts) & set(corpus.validation.texts)
    # Without the second data set, its three texts may be trained on or held out, but are there.
    alone = corpus_of(sets, tmp_path, data=str(sets[0]), text_column="text")
    assert {text for text, _ in make_reviews(240)[:3]} <= {*alone.train.texts, *alone.validation.texts}


def test_weights_say_how_often_each_data_set_is_read(sets: tuple[Path, Path], tmp_path: Path) -> None:
    once = corpus_of(sets, tmp_path)
    weighted = corpus_of(sets, tmp_path, weights="0.5,2.25")
    assert weighted.train_rows == [round(once.train_rows[0] / 2), 2 * 80 + 20]
    assert max(weighted.train.texts.count(text) for text, _ in make_reviews(80, 5)) == 3
    assert weighted.validation == once.validation


@pytest.mark.parametrize("weights", ["1", "1,0", "1,two", "1,1,1", "1,-1", "1,nan", "1,inf"])
def test_weights_that_do_not_fit_are_refused(sets: tuple[Path, Path], tmp_path: Path, weights: str) -> None:
    with pytest.raises(UsageError, match=r"--weights is .*: give a number over 0 for each --data, here 2"):
        corpus_of(sets, tmp_path, weights=weights)


def test_columns_that_do_not_fit_are_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--text-column is given 3 times, and --data 2 times"):
        corpus_of(sets, tmp_path, text_column=("a", "b", "c"))


def test_a_run_tells_the_figures_of_each_data_set_and_its_export_too(
    tiny_bert: Path, sets: tuple[Path, Path], tmp_path: Path
) -> None:
    from edge_imdb.cli.main import cli

    command = ["train", "sentiment", "--base", str(tiny_bert), "--data", str(sets[0]), "--data", str(sets[1])]
    command += ["--text-column", "text", "--text-column", "sentence", "--weights", "1,2", "--spans", "16"]
    command += ["--max-length", "64", "--epochs", "6", "--learning-rate", "3e-3", "--batch-size", "16"]
    command += ["--precision", "fp32", "--output", str(tmp_path / "runs")]
    done = CliRunner().invoke(cli, command)
    assert done.exit_code == 0, done.output
    assert "second: 160 rows of train in an epoch, 33 of validation" in done.output
    run = tmp_path / "runs" / "sentiment"
    metrics = json.loads((run / "metrics.json").read_text())
    assert set(metrics["validation_by_source"]) == {"first.csv", "second"}
    assert metrics["hyperparameters"]["data"] == ["first.csv", "second"]
    card = (run / "README.md").read_text()
    assert "# sentiment, from tiny-bert" in card and "on first.csv and second" in card
    assert f"| second | {metrics['validation_by_source']['second']['accuracy']:.4f} |" in card
    assert "160 of second" in card and "random span, of up to 16 tokens" in card

    exporting = [
        "export",
        "sentiment",
        "--quantize",
        "--from",
        str(tmp_path / "runs"),
        "--to",
        str(tmp_path / "models"),
    ]
    exporting += ["--max-drop", "10", "--max-loss-rise", "0.5"]
    done = CliRunner().invoke(cli, exporting)
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "models" / "sentiment" / "edge.json").read_text())
    groups = manifest["metrics"]["validation_int8"]["groups"]
    assert groups["second"]["reviews"] == 33 and set(groups) == {"first.csv", "second"}


def test_spans_are_parts_of_long_reviews_and_the_same_for_the_same_seed(tiny_bert: Path) -> None:
    from edge_imdb.data.datasets import Reviews
    from edge_imdb.data.text import ReviewEncoder, Truncation
    from edge_imdb.train.base import load_tokenizer
    from edge_imdb.train.sentiment import encode_reviews

    encoder = ReviewEncoder(load_tokenizer(str(tiny_bert), 64).backend_tokenizer, Truncation(64))
    rows = make_reviews(40)
    reviews = Reviews([text for text, _ in rows], [label == "pos" for _, label in rows], ["neg", "pos"])
    plain, first, again, other = (
        encode_reviews(reviews, encoder, spans=spans, seed=seed)["input_ids"]
        for spans, seed in ((0, 0), (16, 0), (16, 0), (16, 1))
    )
    long = [ids for ids in plain if len(ids) - 2 > 16]
    assert long and len(first) == len(plain) + len(long)
    assert first == again and first != other
    found = iter(first)
    for ids in plain:
        assert next(found) == ids
        if len(ids) - 2 > 16:
            span = next(found)[1:-1]
            assert 4 <= len(span) <= 16
            assert any(ids[at : at + len(span)] == span for at in range(1, len(ids)))


@pytest.mark.parametrize("spans", [4, 63, -1])
def test_spans_out_of_range_are_refused(tiny_bert: Path, sets: tuple[Path, Path], tmp_path: Path, spans: int) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    options = tiny_options(tiny_bert, sets, tmp_path / "runs", spans=spans)
    with pytest.raises(UsageError, match=r"--spans is .*: it must be 0, or from 8 to 62"):
        train_sentiment(options)  # type: ignore[arg-type]


def test_fill_mask_only_trains_on_further_data_sets(sets: tuple[Path, Path], tmp_path: Path) -> None:
    given = {"data": tuple(map(str, sets)), "text_column": ("text", "sentence"), "test_data": None}
    options = hyperparameters(fill_options(tmp_path, sets, tmp_path, **given))  # type: ignore[arg-type]
    texts = load_texts(options)
    assert {text for text, _ in make_reviews(80, 5)} <= set(texts.train)
    assert set(texts.validation) <= {text for text, _ in make_reviews(240)}
    twice = load_texts({**options, "weights": "1,2"})
    assert len(twice.train) == len(texts.train) + 80
    with pytest.raises(UsageError, match="must begin with 1"):
        load_texts({**options, "weights": "2,1"})
