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


def _damaged(base: Path, folder: Path, kind: str) -> Path:
    """A copy of a checkpoint with one thing wrong."""
    import torch
    from safetensors.torch import load_file, save_file

    copy = Path(shutil.copytree(base, folder))
    weights = copy / "model.safetensors"
    config = json.loads((copy / "config.json").read_text())
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 438\n"
    match kind:
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "nearly empty":
            weights.write_bytes(b"\0\0\0")
        case "no header":
            weights.write_bytes((2).to_bytes(8, "little") + b"[]")
        case "pointer":
            weights.write_text(pointer)
        case "pointer to a tokenizer":
            (copy / "tokenizer.json").write_text(pointer)
        case "no weights":
            weights.unlink()
        case "pickle":
            weights.unlink()
            torch.save(load_file(base / "model.safetensors"), copy / "pytorch_model.bin")
        case "adapter":
            weights.unlink()
            save_file({"lora": torch.zeros(2)}, copy / "adapter_model.safetensors")
            (copy / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        case "adapter alone":
            shutil.rmtree(copy)
            copy.mkdir()
            (copy / "adapter_config.json").write_text('{"peft_type": "LORA"}')
        case "gguf":
            shutil.rmtree(copy)
            copy.mkdir()
            (copy / "model.gguf").write_bytes(b"GGUF")
        case "empty":
            shutil.rmtree(copy)
            copy.mkdir()
        case "missing shard":
            weights.unlink()
            index = {"weight_map": {"embeddings.word_embeddings.weight": "model-00001-of-00002.safetensors"}}
            (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        case "shard elsewhere":
            weights.unlink()
            index = {"weight_map": {"embeddings.word_embeddings.weight": "../../model.safetensors"}}
            (copy / "model.safetensors.index.json").write_text(json.dumps(index))
        case "no tokenizer":
            for path in [*copy.glob("tokenizer*"), *copy.glob("vocab*"), *copy.glob("special*")]:
                path.unlink()
        case "broken tokenizer":
            (copy / "tokenizer.json").write_text('{"version": "1.0", "model": {"type": "Unheard"}}')
        case "broken config":
            (copy / "config.json").write_text("{")
        case "config of nothing":
            (copy / "config.json").write_text('{"hidden_size": 32}')
        case "wider config":
            (copy / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
        case "heads that don't divide":
            (copy / "config.json").write_text(json.dumps({**config, "num_attention_heads": 5}))
        case "more layers":
            (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
        case "fewer layers":
            (copy / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}))
        case "weights of something else":
            save_file({"conv1.weight": torch.zeros(3)}, weights, {"format": "pt"})
        case "larger tokenizer":
            table = load_file(weights)
            name = "embeddings.word_embeddings.weight"
            save_file({**table, name: table[name][:-5].clone()}, weights, {"format": "pt"})
            (copy / "config.json").write_text(json.dumps({**config, "vocab_size": config["vocab_size"] - 5}))
    return copy


@pytest.mark.parametrize("task", ["sentiment", "fill-mask"])
@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("truncated", r"model\.safetensors is not a whole safetensors file: it has \d+ bytes and its header says \d+"),
        ("nearly empty", "is not a whole safetensors file: it has 3 bytes and was truncated"),
        ("no header", "its header can't be read; download it again"),
        ("pointer", r"model\.safetensors is a pointer of Git LFS, not the file itself: run `git lfs pull`"),
        ("pointer to a tokenizer", r"tokenizer\.json is a pointer of Git LFS"),
        ("no weights", r"has no model\.safetensors: download the checkpoint again"),
        ("pickle", r"has its weights in pytorch_model\.bin alone, and edge-imdb reads only safetensors"),
        ("adapter", "is a PEFT adapter: merge it into its model"),
        ("adapter alone", "it is a PEFT adapter; merge it into its model"),
        ("gguf", "it has a GGUF file; give the folder of the same model in safetensors"),
        ("empty", "it is empty; give the folder of a checkpoint"),
        ("missing shard", r"has no model-00001-of-00002\.safetensors, which model\.safetensors\.index\.json names"),
        ("shard elsewhere", r"has no \.\./\.\./model\.safetensors"),
        ("no tokenizer", r"has no tokenizer: copy the tokenizer\.json of its model into it"),
        ("broken tokenizer", "can't be read as a checkpoint"),
        ("broken config", r"config\.json is not valid JSON"),
        ("config of nothing", r"config\.json names no model_type"),
        ("wider config", r"don't fit its config\.json: they have another shape of .*intermediate"),
        ("heads that don't divide", "can't be read as a checkpoint"),
        ("more layers", r"don't fit its config\.json: they have no .*layer\.2\."),
        ("fewer layers", r"don't fit its config\.json: they have .*layer\.1\.\S+, which it leaves out"),
        ("weights of something else", r"don't fit its config\.json: they have no "),
        ("larger tokenizer", r"has \d+ embeddings and a tokenizer with ids up to \d+"),
    ],
)
def test_a_damaged_checkpoint_is_named_in_a_sentence(
    task: str, kind: str, words: str, tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    from conftest import fill_options

    from edge_imdb.train.fill_mask import train_fill_mask

    base = _damaged(tiny_bert, tmp_path / "base", kind)
    with pytest.raises(BaseModelError, match=words):
        if task == "sentiment":
            train(base, reviews_csv, tmp_path / "runs")
        else:
            train_fill_mask(fill_options(base, reviews_csv, tmp_path / "runs"))  # type: ignore[arg-type]
    assert not list((tmp_path / "runs").glob("*"))


def test_an_error_that_is_not_about_the_checkpoint_is_not_blamed_on_it(tiny_bert: Path) -> None:
    """Such as the exception that a signal handler raises while the weights are read."""
    from edge_imdb.train.base import _load

    class TimeIsUp(Exception):
        pass

    def loader(base: str, **options: object) -> None:
        raise TimeIsUp

    with pytest.raises(TimeIsUp):
        _load(loader, str(tiny_bert))


# --- what goes wrong in a run


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("change", ["labels", "rows", "a third label", "test", "base", "scores"])
def test_a_run_is_not_resumed_with_other_data(
    change: str, tiny_bert: Path, tmp_path: Path, reviews_csv: tuple[Path, Path]
) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    rows = make_reviews(60)
    files = write_csv(tmp_path / "train.csv", rows), write_csv(tmp_path / "test.csv", make_reviews(10, 1))
    scored = tmp_path / "scored.csv"

    def write_scores(sure: float) -> None:
        lines = [f'"{text}",{label},{sure}\n' for text, label in make_reviews(10, 2)]
        scored.write_text("text,label,score\n" + "".join(lines))

    write_scores(0.8)
    base = Path(shutil.copytree(tiny_bert, tmp_path / "base"))

    def stop(step: int, total: int) -> None:
        if step == total - 1:
            raise Stopped

    settings = {"epochs": 1.0, "evaluations_per_epoch": 4, "scored": str(scored)}
    options = tiny_options(base, files, tmp_path / "runs", **settings)
    with pytest.raises(Stopped):
        train_sentiment(options, progress=stop)  # type: ignore[arg-type]
    other = {"neg": "pos", "pos": "neg"}
    words = "The training reviews.* changed since"
    match change:
        case "labels":
            write_csv(files[0], [(text, other[label]) for text, label in rows])
        case "rows":
            write_csv(files[0], rows + make_reviews(5, 3))
        case "a third label":
            write_csv(files[0], [(text, "odd" if i % 3 else label) for i, (text, label) in enumerate(rows)])
        case "test":
            write_csv(files[1], make_reviews(11, 4))
            words = "The test reviews changed since"
        case "base":
            from safetensors.torch import load_file, save_file

            table = load_file(base / "model.safetensors")
            save_file({n: v + 1 for n, v in table.items()}, base / "model.safetensors", {"format": "pt"})
            words = "The base changed since"
        case "scores":
            write_scores(0.9)
            words = "The scored texts changed since"
    with pytest.raises(UsageError, match=f"{words} the run in .* give the same data to go on, or --overwrite"):
        train(base, files, tmp_path / "runs", **settings, resume=True)
    assert list((tmp_path / "runs" / "sentiment.partial").glob("checkpoint-*")), "and the run is not lost"


def test_a_training_that_diverges_stops_with_its_step_and_learning_rate(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    from conftest import fill_options

    from edge_imdb.errors import DivergedError
    from edge_imdb.train.fill_mask import train_fill_mask

    words = r"The training diverged: its .* is (nan|inf) at step \d+, with the peak learning rate 1e\+30"
    with pytest.raises(DivergedError, match=words):
        train(tiny_bert, reviews_csv, tmp_path, learning_rate=1e30)
    with pytest.raises(DivergedError, match=words):
        train_fill_mask(fill_options(tiny_bert, reviews_csv, tmp_path, learning_rate=1e30))  # type: ignore[arg-type]
    assert not (tmp_path / "sentiment").exists() and not (tmp_path / "fill-mask").exists()
    for log in tmp_path.glob("*.partial/log.jsonl"):
        assert "NaN" not in log.read_text() and "Infinity" not in log.read_text()


@pytest.mark.parametrize("figure", [float("nan"), float("inf"), -float("inf")])
def test_no_figure_of_a_run_is_written_that_json_cannot_express(figure: float, tmp_path: Path) -> None:
    from edge_imdb.errors import DivergedError
    from edge_imdb.train.progress import check_finite, write_record

    with pytest.raises(ValueError):
        write_record({"loss": figure}, tmp_path / "log.jsonl")
    with pytest.raises(DivergedError, match=r"its grad norm is .* at step 7, with the peak learning rate 0\.5"):
        check_finite({"loss": 1.0, "grad_norm": figure}, 7, 0.5)
    check_finite({"loss": 1e30}, 7, 0.5)


def test_a_label_that_validation_lacks_is_named(tiny_bert: Path) -> None:
    from edge_imdb.train.sentiment import _warnings

    labels = np.array([0, 1] * 100)
    assert _warnings(0.1, labels, ["neg", "pos"]) == []
    found = _warnings(0.1, labels, ["neg", "pos", "odd"])
    assert len(found) == 1 and "no validation review has the label 'odd'" in found[0]
    # A student can't be surer than its teacher, so that is no sign that it has learnt nothing.
    shares = np.array([[0.6, 0.4], [0.4, 0.6]] * 100)
    assert _warnings(0.674, shares, ["neg", "pos"]) == [] and "hardly better" in _warnings(0.693, shares, ["a", "b"])[0]


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
        ([("one", "pos"), ("two", "")], "line 3 has no label"),
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
