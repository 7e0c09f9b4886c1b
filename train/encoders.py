"""Encoders other than DistilBERT, which are trained as they are: to be teachers of a DistilBERT.

check_encoder, length_limit, plain_architecture, load_encoder, freeze_embeddings.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from ..errors import BaseModelError

# What the architectures call the three kinds of dropout.
_DROPOUT = ("hidden_dropout_prob", "hidden_dropout", "dropout", "embedding_dropout", "mlp_dropout")
_ATTENTION_DROPOUT = ("attention_probs_dropout_prob", "attention_dropout")
_CLASSIFIER_DROPOUT = ("classifier_dropout", "cls_dropout", "pooler_dropout", "seq_classif_dropout")


def check_encoder(config: Any, base: str) -> None:
    """Raise BaseModelError if ``config`` is not that of an encoder that transformers can classify with."""
    kind = config.model_type
    masked, causal = kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES, kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    encodes = (masked or not causal) and not getattr(config, "is_encoder_decoder", False)
    if not encodes or getattr(config, "is_decoder", False) or kind not in (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    ):  # fmt: skip
        raise BaseModelError(
            f"{base} is {'an' if kind[0] in 'aeiou' else 'a'} {kind} checkpoint, not an encoder that transformers can "
            "classify with: give for example a BERT, RoBERTa, MPNet, DeBERTa, ELECTRA or ModernBERT."
        )


def length_limit(config: Any) -> int | None:
    """The largest number of tokens for which a model has position embeddings; None if it needs none.

    Models derived from RoBERTa begin to count behind the id of the padding token, so they read less than
    ``max_position_embeddings``.
    """
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return int(module.num_embeddings) - offset
    return None


def plain_architecture(
    config: Any, names: list[str], dropout: float, attention_dropout: float, classifier_dropout: float
) -> None:
    """Set labels and dropout in ``config``, wherever its architecture has them."""
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    for fields, value in (
        (_DROPOUT, dropout),
        (_ATTENTION_DROPOUT, attention_dropout),
        (_CLASSIFIER_DROPOUT, classifier_dropout),
    ):
        for field in fields:
            if hasattr(config, field):
                setattr(config, field, value)
    # ModernBERT would compile parts of itself where it can.
    if hasattr(config, "reference_compile"):
        config.reference_compile = False


def load_encoder(base: str, config: Any, keeps_head: bool, load: Callable[..., Any]) -> PreTrainedModel:
    """The classifier that ``config`` describes, with the weights of ``base``; its head is new unless ``keeps_head``.

    ``load(loader, base, may_be_new, **options)`` calls a loader of transformers and checks its report. Raises
    BaseModelError or HubError.
    """
    prefix = ""

    def may_be_new(name: str) -> bool:
        # Whatever isn't in the encoder is the head; checkpoints often lack the pooler, which only the head reads.
        return not keeps_head and (not name.startswith(f"{prefix}.") or "pooler" in name)

    with torch.device("meta"):
        prefix = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False).base_model_prefix
    source, _ = load(AutoModelForSequenceClassification.from_pretrained, base, may_be_new, config=config)
    if keeps_head:
        model: PreTrainedModel = source
        return model
    # A head of other labels that happens to have the right shape is not used.
    fresh = type(source)(source.config).float()
    getattr(fresh, prefix).load_state_dict(getattr(source, prefix).state_dict())
    return fresh


def freeze_embeddings(model: PreTrainedModel) -> int:
    """Stop the training of all embeddings, also of relative positions, and of the layer norm that follows them.

    Returns the number of frozen parameters.
    """
    frozen: set[torch.nn.Parameter] = set()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Embedding) or name.rpartition(".")[2] == "embeddings":
            frozen.update(module.parameters())
    for parameter in frozen:
        parameter.requires_grad_(False)
    return sum(parameter.numel() for parameter in frozen)
