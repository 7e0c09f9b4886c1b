"""Fine-tuning: the checkpoint it starts from, runs that are interrupted, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import LAUNCH, SHARED, as_arguments, make_reviews, run_command, tiny_options, write_csv

from edge_imdb.errors import BaseModelError, DataError, EdgeImdbError, HubError, InputError, OutputError, UsageError

pytest.importorskip("torch", reason="PyTorch is not installed")


def train(base: Path, files: tuple[Path, Path], output: Path, **more: object) -> Path:
    from edge_imdb.train.sentiment import train_sentiment

    return train_sentiment(tiny_options(base, files, output, **more))  # type: ignore[arg-type]


# --- the checkpoint to start from


def test_bert_becomes_the_equal_distilbert(tiny_bert: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    from edge_imdb.train.base import load_classifier

    model = load_classifier(str(tiny_bert), ["neg", "pos"], 64, 0.1, 0.0, 0.2).eval()
    bert = BertModel.from_pretrained(tiny_bert).eval()
    assert bert.embeddings.token_type_embeddings.weight[0].abs().max() > 0.1
    batch = AutoTokenizer.from_pretrained(tiny_bert)([t for t, _ in make_reviews(5)], padding=True, return_tensors="pt")
    mask = batch["attention_mask"].bool()
    with torch.no_grad():
        expected = bert(**batch).last_hidden_state[mask]
        got = model.distilbert(batch["input_ids"], batch["attention_mask"]).last_hidden_state[mask]
    assert (expected - got).abs().max() < 1e-5


def test_minilm_becomes_the_equal_distilbert() -> None:
    base = SHARED / "base" / "all-MiniLM-L6-v2"
    if not base.exists():
        pytest.skip(f"the checkpoint {base.name} is not beside this clone, in ../shared/base")
    from edge_imdb.train.base import load_classifier, load_tokenizer

    model = load_classifier(str(base), ["neg", "pos"], 512, 0.1, 0.0, 0.2)  # compares the two itself
    assert model.config.dim == 384
    assert load_tokenizer(str(base), 512)("x " * 600)["input_ids"][-1] == 102


def test_the_padding_and_the_cut_of_a_sentence_transformer_are_turned_off(tiny_bert: Path, tmp_path: Path) -> None:
    """all-MiniLM-L6-v2 is stored like this: its tokenizer pads, and cuts at 128 tokens."""
    from tokenizers import Tokenizer

    from edge_imdb.train.base import load_tokenizer

    folder = Path(shutil.copytree(tiny_bert, tmp_path / "sentence-transformer"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode("film " * 30).ids) == 16
    backend = load_tokenizer(str(folder), 64).backend_tokenizer
    assert len(backend.encode("film " * 30).ids) == 32 and len(backend.encode("film").ids) == 3


def test_a_bert_stored_in_half_precision_is_converted_in_full(tiny_bert: Path, tmp_path: Path) -> None:
    import torch
    from transformers import BertModel

    from edge_imdb.train.base import load_classifier

    folder = Path(shutil.copytree(tiny_bert, tmp_path / "half"))
    BertModel.from_pretrained(tiny_bert).half().save_pretrained(folder)
    model = load_classifier(str(folder), ["neg", "pos"], 64, 0.1, 0.0, 0.2)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("names", "kept"), [(["neg", "pos"], True), (["bad", "good"], False)])
def test_a_classifier_of_the_same_labels_keeps_its_head(tiny_run: Path, names: list[str], kept: bool) -> None:
    from safetensors.torch import load_file

    from edge_imdb.train.base import load_classifier

    state = load_classifier(str(tiny_run), names, 64, 0.3, 0.0, 0.2).state_dict()
    before = load_file(tiny_run / "model.safetensors")
    assert all((state[name] == value).all() for name, value in before.items() if name.startswith("distilbert."))
    assert bool((state["classifier.weight"] == before["classifier.weight"]).all()) is kept


def test_interpolation_keeps_a_share_of_what_was_trained(
    tiny_run: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    before = load_file(tiny_run / "model.safetensors")
    found = {}
    for share in (1.0, 0.25):
        run = train(tiny_run, reviews_csv, tmp_path / str(share), interpolation=share, epochs=1.0)
        found[share] = load_file(run / "model.safetensors")
        assert json.loads((run / "metrics.json").read_text())["validation"]["accuracy"] > 0.9
    moved = [(found[1.0][name] - value, found[0.25][name] - value) for name, value in before.items()]
    assert max(float(whole.abs().max()) for whole, _ in moved) > 1e-3
    assert all(np.allclose(0.25 * whole, part, atol=1e-6) for whole, part in moved)


def test_interpolation_needs_a_classifier_to_go_back_to(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--interpolation needs a --base that is a classifier of neg, pos, and"):
        train(tiny_bert, reviews_csv, tmp_path, interpolation=0.5)
    assert not list(tmp_path.rglob("*.partial"))
    with pytest.raises(UsageError, match="--interpolation is 0: it must be over 0 and at most 1"):
        train(tiny_bert, reviews_csv, tmp_path, interpolation=0)


def test_a_conversion_that_changes_the_output_is_refused(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_imdb.train import base

    swapped = {**base._LAYER_NAMES, "attention.self.query": "attention.k_lin", "attention.self.key": "attention.q_lin"}
    swapped["attention.self.value"], swapped["attention.output.dense"] = "attention.out_lin", "attention.v_lin"
    monkeypatch.setattr(base, "_LAYER_NAMES", swapped)
    with pytest.raises(BaseModelError, match="differs from it by"):
        base.load_classifier(str(tiny_bert), ["neg", "pos"], 64, 0.1, 0.0, 0.2)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "gpt2"}, "gpt2 checkpoint"),
        ({"hidden_act": "silu"}, "hidden_act 'silu'"),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps"),
        ({"is_decoder": True}, "is_decoder"),
        ({"max_position_embeddings": 32}, "lower --max-length from 64"),
        ({"model_type": "no-such-model"}, "can't be read as a checkpoint"),
    ],
)
def test_a_base_that_is_no_bert_is_refused(
    tiny_bert: Path, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    from edge_imdb.train.base import load_classifier

    folder = Path(shutil.copytree(tiny_bert, tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(BaseModelError, match=words):
        load_classifier(str(folder), ["neg", "pos"], 64, 0.1, 0.0, 0.2)


@pytest.mark.parametrize(
    ("base", "kind", "words"),
    [
        ("./missing", BaseModelError, "no folder ./missing"),
        (__file__, BaseModelError, r"no config\.json"),
        ("somebody/missing", HubError, "--base .* --data"),
    ],
)
def test_a_base_that_is_not_there_is_named(base: str, kind: type[EdgeImdbError], words: str) -> None:
    from edge_imdb.train.base import load_tokenizer

    with pytest.raises(kind, match=words):
        load_tokenizer(base, 64)


# --- the reviews


def test_own_data_may_have_any_number_of_labels(tiny_bert: Path, tmp_path: Path) -> None:
    rows = [(text, f"{label} {i % 3}") for i, (text, label) in enumerate(make_reviews(120))]
    data = tmp_path / "own.jsonl"
    data.write_text("".join(json.dumps({"body": text, "mood": label}) + "\n" for text, label in rows))
    options = {"data": str(data), "test_data": None, "text_column": "body", "label_column": "mood", "epochs": 1.0}
    run = train(tiny_bert, (data, data), tmp_path / "runs", **options)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["labels"] == sorted({label for _, label in rows}) and "test" not in metrics
    assert json.loads((run / "config.json").read_text())["id2label"]["5"] == "pos 2"


def test_train_reviews_that_stand_in_test_are_dropped(tiny_bert: Path, tmp_path: Path) -> None:
    from edge_imdb.data.corpus import load_corpus
    from edge_imdb.train.options import hyperparameters

    rows = make_reviews(60)
    files = write_csv(tmp_path / "train.csv", rows), write_csv(tmp_path / "test.csv", rows[:7] + make_reviews(5, 3))
    corpus = load_corpus(hyperparameters(tiny_options(tiny_bert, files, tmp_path)))  # type: ignore[arg-type]
    assert corpus.dropped == 7 and len(corpus.train.texts) + len(corpus.validation.texts) == 53
    assert not {text for text, _ in rows[:7]} & {*corpus.train.texts, *corpus.validation.texts}


def test_a_semicolon_csv_is_trained_on_with_its_delimiter_and_refused_with_a_hint_without(
    tiny_bert: Path, tmp_path: Path
) -> None:
    from edge_imdb.data.corpus import load_corpus
    from edge_imdb.train.options import hyperparameters

    path = tmp_path / "reviews.csv"
    path.write_text("text;label\n" + "".join(f"{text};{label}\n" for text, label in make_reviews(40)), encoding="utf-8")
    options = hyperparameters(tiny_options(tiny_bert, (path, path), tmp_path))  # type: ignore[arg-type]
    options["test_data"] = None
    with pytest.raises(InputError, match="delimiter seems to be ';': give --delimiter"):
        load_corpus(options)
    corpus = load_corpus({**options, "delimiter": ";"})
    assert len(corpus.train.texts) + len(corpus.validation.texts) == 40 and corpus.train.names == ["neg", "pos"]


def test_imdb_has_123_train_reviews_in_test() -> None:
    if not (SHARED / "imdb").exists():
        pytest.skip("the IMDb data set is not beside this clone, in ../shared/imdb")
    from edge_imdb.data.corpus import load_corpus
    from edge_imdb.train.options import SentimentOptions, hyperparameters

    corpus = load_corpus(hyperparameters(SentimentOptions(data=str(SHARED / "imdb"))))
    assert corpus.dropped == 123
    assert corpus.test and len(corpus.test.texts) == 25_000 and corpus.train.names == ["neg", "pos"]
    assert len(corpus.train.texts) + len(corpus.validation.texts) == 25_000 - 123


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(text, "pos") for text, _ in make_reviews(20)], "has the label 'pos'"),
        ([], "is empty"),
        ([("one", "pos"), ("two", "neg")], "too few"),
        ([("one", "pos"), ("  ", "neg")], "line 3 has no text"),
        ([("one", "pos"), ("two", "")], "line 3 has the label ''"),
    ],
)
def test_reviews_that_cannot_be_learned_from_are_refused(
    tiny_bert: Path, tmp_path: Path, rows: list[tuple[str, str]], words: str
) -> None:
    data = write_csv(tmp_path / "own.csv", rows)
    with pytest.raises(DataError, match=words):
        train(tiny_bert, (data, data), tmp_path / "runs", test_data=None)
    assert not (tmp_path / "runs" / "sentiment").exists()


# --- runs that are there already


def test_a_finished_run_is_not_lost(tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path) -> None:
    run = train(tiny_bert, reviews_csv, tmp_path, epochs=0.2)
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(OutputError, match="--overwrite"):
        train(tiny_bert, reviews_csv, tmp_path, epochs=0.2)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    train(tiny_bert, reviews_csv, tmp_path, epochs=0.2, overwrite=True, seed=1)
    assert (run / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_a_mistake_in_the_options_leaves_nothing_in_the_way(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(BaseModelError):
        train(tmp_path / "missing", reviews_csv, tmp_path / "runs")
    with pytest.raises(EdgeImdbError, match="nowhere"):
        train(tiny_bert, (tmp_path / "nowhere.csv", reviews_csv[1]), tmp_path / "runs")
    assert list((tmp_path / "runs").iterdir()) == []


def test_files_in_the_place_of_an_unfinished_run_are_kept(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "sentiment.partial").mkdir()
    (tmp_path / "sentiment.partial" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="not a run"):
        train(tiny_bert, reviews_csv, tmp_path, overwrite=True)
    assert (tmp_path / "sentiment.partial" / "thesis.txt").exists()


def test_a_folder_of_other_files_is_never_replaced(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "sentiment").mkdir()
    (tmp_path / "sentiment" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="choose another folder"):
        train(tiny_bert, reviews_csv, tmp_path, overwrite=True)
    assert (tmp_path / "sentiment" / "thesis.txt").read_text() == "years of work"


def test_an_output_that_cannot_be_written_is_refused(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="can't be written"):
        train(tiny_bert, reviews_csv, tmp_path / "file" / "runs")


@pytest.mark.slow
def test_killed_and_resumed_run_has_the_weights_of_an_undisturbed_one(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = {"epochs": 2.0, "batch_size": 4, "evaluations_per_epoch": 6, "learning_rate": 1e-3}
    whole = train(tiny_bert, reviews_csv, tmp_path / "whole", **settings)
    options = tiny_options(tiny_bert, reviews_csv, tmp_path / "killed", **settings)
    partial = tmp_path / "killed" / "sentiment.partial"
    with subprocess.Popen(
        [sys.executable, "-m", "edge_imdb", *as_arguments(options)], stderr=subprocess.DEVNULL
    ) as child:
        deadline = time.monotonic() + 120
        # After the first epoch, when the order of the reviews has changed.
        while max([0, *(int(p.parent.name[11:]) for p in partial.glob("checkpoint-*/trainer_state.json"))]) < 112:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
    assert partial.exists() and not (tmp_path / "killed" / "sentiment").exists()
    with pytest.raises(OutputError, match="--resume"):
        train(tiny_bert, reviews_csv, tmp_path / "killed", **settings)
    with pytest.raises(UsageError, match=r"learning_rate 0\.001, and not 0\.5"):
        train(tiny_bert, reviews_csv, tmp_path / "killed", **{**settings, "learning_rate": 0.5}, resume=True)
    resumed = train(tiny_bert, reviews_csv, tmp_path / "killed", **settings, resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    logs = [
        [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, resumed)
    ]
    assert logs[0] == logs[1]
    assert not partial.exists()


@pytest.mark.slow
def test_two_processes_train_one_model(tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path) -> None:
    options = tiny_options(tiny_bert, reviews_csv, tmp_path / "runs", batch_size=8)
    result = subprocess.run(
        [sys.executable, *LAUNCH, *as_arguments(options)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("wrote ") == 1
    metrics = json.loads((tmp_path / "runs" / "sentiment" / "metrics.json").read_text())
    assert metrics["test"]["accuracy"] > 0.9 and metrics["hardware"]["device"].startswith("cpu x 2")


# --- the command line


def test_train_export_predict_from_an_empty_folder(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    options = tiny_options(tiny_bert, reviews_csv, Path("runs"), epochs=4.0)
    result = run_command(*as_arguments(options), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "accuracy" in result.stderr and "Traceback" not in result.stderr
    result = run_command("export", "sentiment", "--quantize", "--max-drop", "5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    arguments = ("predict", "--model", "models/sentiment", "the film was superb. the cast was wonderful.")
    assert run_command(*arguments, cwd=tmp_path).stdout.startswith("pos\t")
    again = run_command("export", "--quantize", cwd=tmp_path)
    assert again.returncode == 1 and "--overwrite" in again.stderr
    other = write_csv(tmp_path / "other.csv", make_reviews(50, seed=4))
    moved = run_command("export", "--quantize", "--overwrite", "--data", other, cwd=tmp_path)
    assert moved.returncode == 1 and "not those that the run was trained on" in moved.stderr
    assert run_command(*arguments, cwd=tmp_path).stdout.startswith("pos\t")
