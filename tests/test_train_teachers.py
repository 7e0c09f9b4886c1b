"""Teachers: encoders of other architectures are fine-tuned as they are, stopped, resumed, and refused by export."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import make_reviews, write_csv
from tiny_encoders import ARCHITECTURES, make_encoder

pytest.importorskip("torch", reason="PyTorch is not installed")

import torch

from edge_imdb.errors import BaseModelError, BundleError, UsageError
from edge_imdb.train.batches import TokenBatches
from edge_imdb.train.options import SentimentOptions, padded


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_csv(tmp_path_factory.mktemp("reviews") / "reviews.csv", make_reviews(80))


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("teachers")
    return {name: make_encoder(folder / name, name) for name in ARCHITECTURES}


def options(base: Path, data: Path, output: Path, **more: object) -> SentimentOptions:
    given = {
        "base": str(base),
        "data": str(data),
        "output": str(output),
        "max_length": 32,
        "epochs": 2.0,
        "tokens_per_batch": 320,
        "learning_rate": 3e-3,
        "validation": 0.2,
        "precision": "fp32",
        "evaluations_per_epoch": 3,
    }
    return SentimentOptions(**{**given, **more})  # type: ignore[arg-type]


class Stopped(Exception):
    """Stands for whatever ends a process."""


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_teacher_is_fine_tuned_and_a_stopped_run_resumes_with_the_same_bits(
    architecture: str, teachers: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from edge_imdb.export.pipeline import check_distilbert
    from edge_imdb.train.sentiment import train_sentiment

    steps: list[tuple[int, int]] = []
    whole = train_sentiment(
        options(teachers[architecture], reviews, tmp_path / "whole"), progress=lambda *step: steps.append(step)
    )

    def stop(step: int, total: int) -> None:
        if step == total * 3 // 4:
            raise Stopped

    with pytest.raises(Stopped):
        train_sentiment(options(teachers[architecture], reviews, tmp_path / "stopped"), progress=stop)
    assert list((tmp_path / "stopped" / "sentiment.partial").glob("checkpoint-*"))
    resumed = train_sentiment(options(teachers[architecture], reviews, tmp_path / "stopped", resume=True))
    assert (resumed / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()

    total = steps[0][1]
    assert (
        steps[0] == (0, total)
        and steps[-1] == (total, total)
        and [step for step, _ in steps] == sorted(step for step, _ in steps)
    )
    before, after = (load_file(folder / "model.safetensors") for folder in (teachers[architecture], whole))
    assert before.keys() == after.keys() and any((before[name] != after[name]).any() for name in before)
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["architecture"] == architecture and metrics["validation"]["accuracy"] >= 0.5
    assert f"\n- {architecture}\n" in (whole / "README.md").read_text()
    # It opens in transformers, with the labels and the tokenizer.
    model = AutoModelForSequenceClassification.from_pretrained(whole)
    assert model.config.id2label == {0: "neg", 1: "pos"}
    assert AutoTokenizer.from_pretrained(whole)("The plot was dull.")["input_ids"]
    with pytest.raises(
        BundleError, match=f"architecture {architecture}, and the int8 graph needs a DistilBERT.* distil"
    ):
        check_distilbert(whole)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_long_review_keeps_head_and_tail_between_the_special_tokens_of_the_architecture(
    architecture: str, teachers: dict[str, Path]
) -> None:
    from transformers import AutoTokenizer

    from edge_imdb.data.text import ReviewEncoder, Truncation
    from edge_imdb.train.base import load_tokenizer

    encoder = ReviewEncoder(
        load_tokenizer(str(teachers[architecture]), 32, bert=False).backend_tokenizer, Truncation(32, 0.25), bert=False
    )
    text = " ".join(text for text, _ in make_reviews(3))
    whole = AutoTokenizer.from_pretrained(teachers[architecture])(text)["input_ids"]
    # Of 30 tokens a quarter, rounded, is the head.
    assert encoder.encode(text) == [*whole[:9], *whole[-23:]] and len(whole) > 32
    assert (
        encoder.special == 2
        and encoder.encode("plot") == AutoTokenizer.from_pretrained(teachers[architecture])("plot")["input_ids"]
    )


def test_special_tokens_at_one_end_only_are_kept_there(word_tokenizer: object) -> None:
    from tokenizers import processors

    from edge_imdb.data.text import ReviewEncoder, Truncation
    from edge_imdb.errors import InputError

    word_tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[attr-defined]
        single="$A [SEP] [CLS]", special_tokens=[("[SEP]", 3), ("[CLS]", 2)]
    )
    encoder = ReviewEncoder(word_tokenizer, Truncation(8), bert=False)  # type: ignore[arg-type]
    assert encoder.encode("good film") == [5, 7, 3, 2] and encoder.special == 2
    word_tokenizer.post_processor = processors.TemplateProcessing(  # type: ignore[attr-defined]
        single="$A [SEP]", special_tokens=[("[SEP]", 3)]
    )
    assert ReviewEncoder(word_tokenizer, Truncation(4), bert=False).encode("good film " * 9) == [5, 5, 7, 3]  # type: ignore[arg-type]
    with pytest.raises(InputError, match="adds 1 special tokens, but a BERT tokenizer adds 2"):
        ReviewEncoder(word_tokenizer, Truncation(4))  # type: ignore[arg-type]


def test_positions_behind_the_padding_token_are_not_counted_as_length(teachers: dict[str, Path]) -> None:
    from edge_imdb.train.base import load_config

    for name in ("roberta", "mpnet", "electra"):
        load_config(str(teachers[name]), 64, architecture="auto")
        with pytest.raises(BaseModelError, match="can read at most 64 tokens: lower --max-length from 65"):
            load_config(str(teachers[name]), 65, architecture="auto")
    # Relative and rotary positions have no end.
    for name in ("deberta-v2", "modernbert"):
        load_config(str(teachers[name]), 512, architecture="auto")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"token_dropping": "0.5"}, "--token-dropping is for a DistilBERT, and .* is trained as the electra"),
        ({"truncated_copies": 8}, "--truncated-copies is for a DistilBERT"),
        ({"layers": 1}, "--layers is for a DistilBERT"),
        ({"tokens_per_batch": 24}, "--tokens-per-batch is 24: it must be 32 or more"),
        ({"interpolation": 0.5}, "--interpolation needs a --base that is a classifier of neg, pos"),
    ],
)
def test_options_that_need_a_distilbert_are_refused_for_another_architecture(
    more: dict[str, object], words: str, teachers: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    with pytest.raises(UsageError, match=words):
        train_sentiment(options(teachers["electra"], reviews, tmp_path, **more))
    assert not (tmp_path / "sentiment.partial").exists()


def test_a_teacher_that_classifies_the_same_labels_keeps_its_head(teachers: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file

    from edge_imdb.train.base import load_classifier

    # The seed of the checkpoint would give the same head again.
    torch.manual_seed(1)

    def load(base: Path, names: list[str]) -> dict[str, torch.Tensor]:
        model = load_classifier(str(base), names, 32, 0.0, 0.0, 0.0, "auto")
        folder = tmp_path / "-".join(names)
        model.save_pretrained(folder)
        return load_file(folder / "model.safetensors")

    base = teachers["roberta"]
    before = load_file(base / "model.safetensors")
    # The checkpoint has the labels LABEL_0 and LABEL_1.
    same, other, three = load(base, ["LABEL_0", "LABEL_1"]), load(base, ["neg", "pos"]), load(base, ["a", "b", "c"])
    for name, value in before.items():
        assert (same[name] == value).all()
        if name.startswith("roberta."):
            assert (other[name] == value).all() and (three[name] == value).all()
    head = "classifier.out_proj.weight"
    assert (other[head] != before[head]).any() and three[head].shape == (3, 32)


def test_frozen_embeddings_and_relative_positions_stay_as_they_are(
    teachers: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    from edge_imdb.train.sentiment import train_sentiment

    run = train_sentiment(options(teachers["mpnet"], reviews, tmp_path, freeze_embeddings=True, epochs=1.0))
    before, after = (load_file(folder / "model.safetensors") for folder in (teachers["mpnet"], run))
    frozen = {name for name in before if "embeddings" in name or "relative_attention_bias" in name}
    assert len(frozen) >= 5
    for name, value in before.items():
        if name.startswith("mpnet.") and "pooler" not in name:
            assert bool((after[name] == value).all()) is (name in frozen), name


def test_a_bert_becomes_a_distilbert_unless_it_is_to_be_kept(tiny_bert: Path) -> None:
    from edge_imdb.train.base import keeps_architecture, load_classifier, load_config

    made = {
        architecture: load_classifier(str(tiny_bert), ["neg", "pos"], 64, 0.1, 0.0, 0.2, architecture).eval()
        for architecture in ("auto", "distilbert", "keep")
    }
    assert [model.config.model_type for model in made.values()] == ["distilbert", "distilbert", "bert"]
    assert not keeps_architecture(load_config(str(tiny_bert), 64), "auto")
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        hidden = [made["auto"].distilbert(ids)[0], made["keep"].bert(ids)[0]]
    assert (hidden[0] - hidden[1]).abs().max() < 1e-5


def test_what_cannot_become_a_distilbert_is_refused_if_one_is_asked_for(
    teachers: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    from edge_imdb.train.sentiment import train_sentiment

    with pytest.raises(BaseModelError, match="is an electra checkpoint: give a DistilBERT or a BERT"):
        train_sentiment(options(teachers["electra"], reviews, tmp_path, architecture="distilbert"))


@pytest.mark.parametrize("model_type", ["gpt2", "t5", "bart"])
def test_what_is_no_encoder_is_refused(model_type: str, tiny_bert: Path, tmp_path: Path) -> None:
    import shutil

    from edge_imdb.train.base import load_config

    folder = Path(shutil.copytree(tiny_bert, tmp_path / "base"))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(BaseModelError, match=f"a {model_type} checkpoint, not an encoder that transformers can"):
        load_config(str(folder), 64, architecture="auto")


def test_code_of_a_checkpoint_is_never_run(tiny_bert: Path, tmp_path: Path) -> None:
    import shutil

    from edge_imdb.train.base import load_config

    folder = Path(shutil.copytree(tiny_bert, tmp_path / "base"))
    config = {"model_type": "their-own", "auto_map": {"AutoConfig": "code.Config", "AutoModel": "code.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(BaseModelError, match="needs code from its own repository, which edge-imdb never runs"):
        load_config(str(folder), 64, architecture="auto")
    assert not (tmp_path / "ran").exists()


# --- batches by tokens


def test_batches_have_at_most_so_many_tokens_and_every_row_once() -> None:
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 120, (2000,), generator=draw).tolist()
    batches = TokenBatches(lengths, 512, epochs=3, seed=7)
    orders = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        found = list(batches)
        assert len(found) == len(batches)
        assert sorted(row for batch in found for row in batch) == list(range(2000))
        assert all(len(batch) * padded(max(lengths[row] for row in batch)) <= 512 for batch in found)
        assert found == list(batches)
        orders.append(found)
    assert orders[0] != orders[1] != orders[2]
    # Little padding: batches of rows in random order would need far more.
    assert len(batches) < 1.15 * sum(map(padded, lengths)) / 512


def test_processes_share_batches_evenly() -> None:
    lengths = [8] * 30 + [16] * 7
    for processes in (2, 3):
        batches = TokenBatches(lengths, 32, epochs=2, seed=0, processes=processes)
        assert len(batches) % processes == 0 and len(list(batches)) == len(batches)
        assert batches.sampler is batches
