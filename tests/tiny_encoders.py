"""Tiny random checkpoints of five architectures that are not DistilBERT, each with a fast tokenizer of its own kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conftest import make_reviews

ARCHITECTURES = ("mpnet", "roberta", "deberta-v2", "modernbert", "electra")
# What the tokens are called: padding, unknown, before a text, after it.
_ANGLED = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
_SQUARE = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def make_encoder(folder: Path, architecture: str, positions: int = 64) -> Path:
    """Write a checkpoint of 2 layers and width 32 that reads ``positions`` tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    special = _ANGLED if architecture in ("mpnet", "roberta") else _SQUARE
    tokenizer = _tokenizer(architecture, special)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=positions, **special)
    wrapped.save_pretrained(folder)
    # RoBERTa and MPNet begin to count positions behind the id of the padding token.
    offset = wrapped.pad_token_id + 1 if special is _ANGLED else 0
    sizes: dict[str, Any] = {
        "vocab_size": len(wrapped),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": positions + offset,
        "pad_token_id": wrapped.pad_token_id,
        "bos_token_id": wrapped.cls_token_id,
        "eos_token_id": wrapped.sep_token_id,
    }
    if architecture == "electra":
        sizes["embedding_size"] = 16
    if architecture == "deberta-v2":
        sizes |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
    if architecture == "modernbert":
        sizes |= {"cls_token_id": wrapped.cls_token_id, "sep_token_id": wrapped.sep_token_id}
    torch.manual_seed(0)
    config = AutoConfig.for_model(architecture, **sizes)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return folder


def _tokenizer(architecture: str, special: dict[str, str]) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = sorted({word.strip(".,") for text, _ in make_reviews(60) for word in text.lower().split()})
    names = list(special.values())
    if architecture in ("mpnet", "electra"):
        vocabulary = {piece: i for i, piece in enumerate([*names, ".", ",", *words])}
        tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=special["unk_token"]))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    elif architecture == "deberta-v2":
        pieces = [(name, 0.0) for name in names] + [(f"▁{word}", -5.0) for word in words] + [("▁", -9.0), (".", -6.0)]
        tokenizer = Tokenizer(models.Unigram(pieces, unk_id=names.index(special["unk_token"])))
        tokenizer.normalizer = normalizers.Lowercase()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    else:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = {piece: i for i, piece in enumerate([*names, *alphabet])}
        tokenizer = Tokenizer(models.BPE(vocabulary, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    first, last = special["cls_token"], special["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B {last}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (first, last)],
    )
    return tokenizer
