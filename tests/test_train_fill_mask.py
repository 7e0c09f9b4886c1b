"""Masked-LM training: the head it starts with, what it learns, runs that are killed, runs of two processes."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from conftest import LAUNCH, SHARED, as_arguments, fill_options, make_reviews, run_command, write_csv

from edge_imdb.errors import BaseModelError, DivergedError, EdgeImdbError, OutputError, UsageError

pytest.importorskip("torch", reason="PyTorch is not installed")


def train(base: Path, files: tuple[Path, Path], output: Path, **more: object) -> Path:
    from edge_imdb.train.fill_mask import train_fill_mask

    return train_fill_mask(fill_options(base, files, output, **more))  # type: ignore[arg-type]


def figures(run: Path) -> dict[str, object]:
    result: dict[str, object] = json.loads((run / "metrics.json").read_text())
    return result


# --- the head


def test_a_base_without_a_head_gets_the_identity_tied_to_its_embeddings(tiny_bert: Path) -> None:
    import torch

    from edge_imdb.train.base import load_masked_lm

    model, new = load_masked_lm(str(tiny_bert), 64, 0.1, 0.0)
    assert new
    assert torch.equal(model.vocab_transform.weight, torch.eye(32)) and not model.vocab_transform.bias.any()
    assert model.vocab_projector.weight is model.distilbert.embeddings.word_embeddings.weight
    assert not model.vocab_projector.bias.any()


def test_the_head_of_a_bert_is_kept(tiny_bert: Path, tmp_path: Path) -> None:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from edge_imdb.train.base import load_masked_lm

    shutil.copytree(tiny_bert, tmp_path / "base")
    torch.manual_seed(1)
    bert = BertForMaskedLM(BertConfig.from_pretrained(tiny_bert)).eval()
    torch.nn.init.normal_(bert.cls.predictions.bias)
    torch.nn.init.normal_(bert.cls.predictions.transform.LayerNorm.weight)
    bert.save_pretrained(tmp_path / "base")
    model, new = load_masked_lm(str(tmp_path / "base"), 64, 0.1, 0.0, "eager")
    ids = torch.randint(0, bert.config.vocab_size, (2, 20))
    with torch.no_grad():
        difference = (bert(input_ids=ids).logits - model.eval()(input_ids=ids).logits).abs().max()
    assert not new and difference < 1e-4


def test_the_head_of_a_distilbert_is_kept(fill_run: Path) -> None:
    from safetensors.torch import load_file

    from edge_imdb.train.base import load_masked_lm

    model, new = load_masked_lm(str(fill_run), 64, 0.1, 0.0)
    before = load_file(fill_run / "model.safetensors")
    assert not new and all((model.state_dict()[name] == value).all() for name, value in before.items())


def test_a_sentiment_run_starts_from_a_fill_mask_run(fill_run: Path) -> None:
    from edge_imdb.train.base import load_classifier, load_masked_lm

    words = load_masked_lm(str(fill_run), 64, 0.1, 0.0)[0].distilbert.state_dict()
    encoder = load_classifier(str(fill_run), ["neg", "pos"], 64, 0.1, 0.0, 0.2).distilbert.state_dict()
    assert all((encoder[name] == value).all() for name, value in words.items())


def test_chunks_longer_than_the_base_reads_are_refused(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(BaseModelError, match="lower --chunk-length from 65"):
        train(tiny_bert, reviews_csv, tmp_path, chunk_length=65)


# --- what it learns, and leaves


def test_training_learns_and_writes_perplexity_after_each_epoch(fill_run: Path) -> None:
    metrics = figures(fill_run)
    epochs = metrics["epochs"]
    assert isinstance(epochs, list) and [row["epoch"] for row in epochs] == [1, 2, 3, 4]
    best = min(row["validation_perplexity"] for row in epochs)
    assert metrics["validation"]["perplexity"] == best  # type: ignore[index]
    # Guessing gives about 560, the size of the vocabulary; knowing only the frequency of each word gives about 39.
    assert best < epochs[0]["validation_perplexity"] and best < 45
    log = [json.loads(line) for line in (fill_run / "log.jsonl").read_text().splitlines()]
    assert not any("test_perplexity" in record for record in log)


def test_run_folder_is_ready_for_the_hub(fill_run: Path) -> None:
    names = {path.name for path in fill_run.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "metrics.json", "log.jsonl", "curves.png"} <= names
    card = (fill_run / "README.md").read_text()
    assert card.startswith("---\n") and "pipeline_tag: fill-mask" in card and "| 4 | " in card
    assert str(fill_run.parent) not in card and "kg CO2" in card
    assert not fill_run.with_name("fill-mask.partial").exists()
    assert json.loads((fill_run / "config.json").read_text())["architectures"] == ["DistilBertForMaskedLM"]


def test_perplexity_is_that_of_transformers_own_model(fill_run: Path, reviews_csv: tuple[Path, Path]) -> None:
    import torch
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from edge_imdb.data.datasets import read_texts
    from edge_imdb.data.masking import IGNORED, Vocabulary, evaluation_batches, join_chunks

    tokenizer = AutoTokenizer.from_pretrained(fill_run).backend_tokenizer
    chunks = join_chunks(tokenizer, read_texts(str(reviews_csv[1]), "test"), 64)
    model = AutoModelForMaskedLM.from_pretrained(fill_run).eval()
    losses = []
    for ids, labels in evaluation_batches(chunks, Vocabulary.of(tokenizer), range(len(chunks)), 4):
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(ids).long()).logits
        wanted = torch.from_numpy(labels).long()
        losses.append(torch.nn.functional.cross_entropy(logits.transpose(1, 2), wanted, reduction="none",
                                                        ignore_index=IGNORED)[wanted != IGNORED])  # fmt: skip
    measured = figures(fill_run)["test"]["perplexity"]  # type: ignore[index]
    assert measured == pytest.approx(math.exp(torch.cat(losses).mean()), rel=1e-5)


@pytest.mark.parametrize(("chunks", "share", "processes"), [(30, 4, 1), (30, 4, 2), (33, 8, 2), (17, 8, 3), (5, 8, 4)])
def test_every_chunk_comes_once_an_epoch(chunks: int, share: int, processes: int) -> None:
    from edge_imdb.train.fill_mask import rows_of

    def epoch(number: int) -> list[int]:
        steps = range(math.ceil(chunks / (share * processes)))
        parts = [rows_of(chunks, 0, number, s, share, processes, p) for s in steps for p in range(processes)]
        assert max(map(len, parts)) <= share
        return [int(row) for part in parts for row in part]

    assert sorted(epoch(0)) == sorted(epoch(1)) == list(range(chunks))
    assert epoch(0) == epoch(0) != epoch(1)


def test_training_on_meets_other_masks_on_the_same_held_out_reviews(
    tiny_bert: Path, fill_run: Path, reviews_csv: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge_imdb.train import fill_mask

    keys: list[tuple[int, ...]] = []
    drawn = fill_mask.draw

    def draw(found: Iterable[tuple[int, ...]], count: int) -> object:
        found = list(found)
        keys.extend(found)
        return drawn(found, count)

    monkeypatch.setattr(fill_mask, "draw", draw)
    seen, held_out = [], set()
    for number, base in enumerate((tiny_bert, tiny_bert, fill_run)):
        keys.clear()
        run = train(base, reviews_csv, tmp_path / str(number), epochs=1.0)
        seen.append(set(keys))
        data = figures(run)["data"]
        assert isinstance(data, dict) and len(seen[-1]) == data["train_chunks"]
        held_out.add(data["validation_fingerprint"])
    assert seen[0] == seen[1] and not seen[0] & seen[2] and len(held_out) == 1


def test_interpolation_keeps_a_share_of_what_was_trained(
    tiny_bert: Path, fill_run: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    before = load_file(fill_run / "model.safetensors")
    found, measured = {}, {}
    for share in (1.0, 0.25):
        run = train(fill_run, reviews_csv, tmp_path / str(share), interpolation=share, epochs=1.0)
        found[share] = load_file(run / "model.safetensors")
        measured[share] = figures(run)["validation"]
    # The embeddings are among them, which the head is tied to: they too are moved once.
    moved = {name: (found[1.0][name] - value, found[0.25][name] - value) for name, value in before.items()}
    assert float(moved["distilbert.embeddings.word_embeddings.weight"][0].abs().max()) > 1e-3
    assert all(np.allclose(0.25 * whole, part, atol=1e-6) for whole, part in moved.values())
    # Its figures are those of the weights that are kept.
    again = train(tmp_path / "0.25" / "fill-mask", reviews_csv, tmp_path / "again", learning_rate=1e-30, epochs=1.0)
    assert figures(again)["validation"] == pytest.approx(measured[0.25], rel=1e-5) != measured[1.0]
    with pytest.raises(UsageError, match="--interpolation needs a --base with a masked-LM head, and"):
        train(tiny_bert, reviews_csv, tmp_path / "none", interpolation=0.5)
    assert not list((tmp_path / "none").glob("*"))


def test_accumulated_batches_make_the_step_of_one_large_batch(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    settings = {"epochs": 1.0, "dropout": 0.0, "learning_rate": 1e-3}
    large = train(tiny_bert, reviews_csv, tmp_path / "a", batch_size=8, **settings)
    small = train(tiny_bert, reviews_csv, tmp_path / "b", batch_size=2, gradient_accumulation=4, **settings)
    after = load_file(small / "model.safetensors")
    for name, value in load_file(large / "model.safetensors").items():
        np.testing.assert_allclose(value, after[name], atol=2e-3, err_msg=name)


def test_unlabelled_reviews_are_trained_on_but_never_measured_on(tiny_bert: Path, tmp_path: Path) -> None:
    from edge_imdb.data.corpus import load_texts
    from edge_imdb.train.options import hyperparameters

    folder = tmp_path / "data"
    folder.mkdir()
    configs = "configs:\n- config_name: default\n  data_files:\n"
    rows = {"train": make_reviews(60), "test": make_reviews(30, 1), "unsupervised": make_reviews(40, 2)}
    rows["unsupervised"] += rows["test"][:5] + rows["train"]
    for split, reviews in rows.items():
        write_csv(folder / f"{split}.csv", [(text, "-1") for text, _ in reviews])
        configs += f"  - split: {split}\n    path: {split}.csv\n"
    (folder / "README.md").write_text(f"---\n{configs}---\n")
    options = hyperparameters(fill_options(tiny_bert, (folder, folder), tmp_path, test_data=None, unsupervised=True))  # type: ignore[arg-type]
    texts = load_texts(options)
    train_texts = {text for text, _ in rows["train"]}
    assert texts.dropped == 5 and texts.test is not None and len(texts.test) == 30
    assert len(texts.validation) == 12 and set(texts.validation) <= train_texts
    assert {text for text, _ in rows["unsupervised"][:40]} <= set(texts.train)
    assert not set(texts.train) & {*texts.validation, *texts.test}
    without = load_texts({**options, "unsupervised": False})
    assert without.validation == texts.validation and set(without.train) < train_texts


def test_imdb_gives_its_train_reviews_less_those_in_test() -> None:
    if not (SHARED / "imdb").exists():
        pytest.skip("the IMDb data set is not beside this clone, in ../shared/imdb")
    pytest.importorskip("datasets", reason="datasets is not installed")
    from edge_imdb.data.corpus import load_texts
    from edge_imdb.train.options import FillMaskOptions, hyperparameters

    texts = load_texts(hyperparameters(FillMaskOptions(data=str(SHARED / "imdb"))))
    assert texts.dropped == 123 and len(texts.train) + len(texts.validation) == 25_000 - 123


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mask_probability": 0.0}, "--mask-probability is 0.0"),
        ({"mask_probability": 1.5}, "--mask-probability is 1.5"),
        ({"chunk_length": 0}, "--chunk-length is 0"),
        ({"checkpoint_steps": 0}, "--checkpoint-steps is 0"),
        ({"learning_rate": -1.0}, "--learning-rate is -1.0"),
        ({"unsupervised": True}, "--unsupervised needs a data set"),
        ({"resume": True}, "contains no unfinished run"),
        ({"country": "XYZ"}, "--country"),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path, options: dict[str, object], words: str
) -> None:
    with pytest.raises(EdgeImdbError, match=words):
        train(tiny_bert, reviews_csv, tmp_path / "runs", **options)
    assert not list((tmp_path / "runs").glob("*"))


def test_a_loss_that_explodes_is_told(tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="lower --learning-rate"):
        train(tiny_bert, reviews_csv, tmp_path, learning_rate=1e30)


# --- runs that are killed


@pytest.mark.slow
def test_a_run_killed_three_times_has_the_weights_of_an_undisturbed_one(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = {"epochs": 4.0, "batch_size": 2, "learning_rate": 1e-3, "checkpoint_steps": 7, "mask_probability": 0.3}
    whole = train(tiny_bert, reviews_csv, tmp_path / "whole", **settings)
    steps = [json.loads(line)["step"] for line in (whole / "log.jsonl").read_text().splitlines()]
    moments = sorted(random.Random(0).sample(range(20, steps[-1] - 20), 3))
    print(f"killed from step {moments} on, of {steps[-1]}")
    partial = tmp_path / "killed" / "fill-mask.partial"
    for number, moment in enumerate(moments):
        options = fill_options(tiny_bert, reviews_csv, tmp_path / "killed", **settings, resume=number > 0)
        said = tmp_path / f"said-{number}.txt"
        with (
            said.open("w") as stderr,
            subprocess.Popen([sys.executable, "-m", "edge_imdb", *as_arguments(options)], stderr=stderr) as child,
        ):
            deadline = time.monotonic() + 240
            while _last_step(partial) < moment:
                assert time.monotonic() < deadline
                assert child.poll() is None, said.read_text()
                time.sleep(0.002)
            child.send_signal(signal.SIGKILL)
        assert partial.exists() and not (tmp_path / "killed" / "fill-mask").exists()
    with pytest.raises(OutputError, match="--resume"):
        train(tiny_bert, reviews_csv, tmp_path / "killed", **settings)
    with pytest.raises(UsageError, match=r"mask_probability 0\.3, and not 0\.5"):
        train(tiny_bert, reviews_csv, tmp_path / "killed", **{**settings, "mask_probability": 0.5}, resume=True)
    resumed = train(tiny_bert, reviews_csv, tmp_path / "killed", **settings, resume=True)
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert figures(resumed)["epochs"] == figures(whole)["epochs"]
    assert [json.loads(line)["step"] for line in (resumed / "log.jsonl").read_text().splitlines()] == steps
    assert not partial.exists()


def _last_step(partial: Path) -> int:
    """The step of the checkpoint that a killed run would continue from."""
    from edge_imdb.train.fill_mask import CHECKPOINT, _state_of

    path = partial / CHECKPOINT
    return _state_of(path).step if path.exists() else 0


# --- runs of two processes


@pytest.mark.slow
def test_two_processes_reach_the_perplexity_of_one(
    tiny_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    settings = {"dropout": 0.0, "epochs": 4.0}
    alone = train(tiny_bert, reviews_csv, tmp_path / "one", batch_size=8, **settings)
    options = fill_options(tiny_bert, reviews_csv, tmp_path / "two", batch_size=4, **settings)
    result = subprocess.run(
        [sys.executable, *LAUNCH, *as_arguments(options)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("wrote ") == 1
    both = figures(tmp_path / "two" / "fill-mask")
    assert both["hardware"]["device"].startswith("cpu x 2")  # type: ignore[index]
    for split in ("validation", "test"):
        expected = figures(alone)[split]["perplexity"]  # type: ignore[index]
        assert both[split]["perplexity"] == pytest.approx(expected, rel=0.01)  # type: ignore[index]
        assert both[split]["tokens"] == figures(alone)[split]["tokens"]  # type: ignore[index]


# --- the command line


@pytest.mark.slow
def test_train_and_export_without_a_task_do_both(
    long_bert: Path, reviews_csv: tuple[Path, Path], tmp_path: Path
) -> None:
    data = reviews_csv[0]
    result = run_command("train", "--base", long_bert, "--data", data, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"sentiment", "fill-mask"}
    # Three epochs on so little data teach a tiny model almost nothing, so int8 may lose any amount.
    result = run_command("export", "--quantize", "--max-drop", 100, "--max-rise", 50, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert {path.name for path in (tmp_path / "models").iterdir()} == {"sentiment", "fill-mask"}
    assert len(run_command("fill", "the [MASK] was great.", cwd=tmp_path).stdout.splitlines()) == 5
    assert run_command("predict", "the film was great.", cwd=tmp_path).stdout[:3] in ("pos", "neg")
