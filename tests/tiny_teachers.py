"""make_teacher: tiny random classifiers of five architectures, none of them a DistilBERT, each with a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conftest import make_reviews

ARCHITECTURES = ("mpnet", "roberta", "deberta-v2", "modernbert", "electra")


def make_tokenizer(folder: Path, special: Sequence[str], positions: int) -> Any:
    """A fast tokenizer of whole words and letters; ``special`` are the tokens start, pad, end, unknown and mask."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    text = " ".join(text.lower() for text, _ in make_reviews(400))
    signs, words = sorted(set(text) - {" "}), sorted(set(re.findall("[a-z]{2,}", text)))
    pieces = [*special, *signs, *(f"##{sign}" for sign in signs), *words]
    start, pad, end, unknown, mask = special
    backend = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token=unknown))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.BertProcessing((end, pieces.index(end)), (start, pieces.index(start)))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, cls_token=start, pad_token=pad, sep_token=end, unk_token=unknown, mask_token=mask,
        model_max_length=positions,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def make_teacher(
    folder: Path, architecture: str = "mpnet", labels: Sequence[str] = ("neg", "pos"), spread: float = 0.4
) -> Path:
    """A random classifier of ``architecture``, 2 layers of width 32, that reads 64 tokens."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>") if architecture in ("mpnet", "roberta") else (
        "[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"
    )  # fmt: skip
    tokenizer = make_tokenizer(folder, special, 64)
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 64, "initializer_range": spread, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "cls_token_id": 0, "sep_token_id": 2, "num_labels": len(labels), "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }  # fmt: skip
    kinds = {
        "mpnet": (t.MPNetConfig, t.MPNetForSequenceClassification, {"max_position_embeddings": 66}),
        "roberta": (t.RobertaConfig, t.RobertaForSequenceClassification, {"max_position_embeddings": 66}),
        "deberta-v2": (
            t.DebertaV2Config,
            t.DebertaV2ForSequenceClassification,
            {"max_position_embeddings": 64, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
        ),
        "modernbert": (
            t.ModernBertConfig,
            t.ModernBertForSequenceClassification,
            {"max_position_embeddings": 64, "reference_compile": False},
        ),
        "electra": (
            t.ElectraConfig,
            t.ElectraForSequenceClassification,
            {"max_position_embeddings": 64, "embedding_size": 32},
        ),
    }
    config, model, more = kinds[architecture]
    model(config(**shared, **more)).save_pretrained(folder)
    return folder


def fine_tune(folder: Path, steps: int = 80) -> Path:
    """Train the classifier in ``folder`` until it labels our reviews right."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    rows = make_reviews(32 * 8, 40)
    for step in range(steps):
        some = rows[step % 8 * 32 :][:32]
        batch = tokenizer([text for text, _ in some], padding=True, truncation=True, return_tensors="pt")
        labels = torch.tensor([int(label == "pos") for _, label in some])
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)
    return folder
