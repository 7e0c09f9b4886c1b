"""load_tokenizer, load_classifier and load_masked_lm: the checkpoint to start from; a BERT becomes a DistilBERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    DistilBertConfig,
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertModel,
    PreTrainedTokenizerFast,
)

from ..edge_graph.read import checkpoint_of
from ..errors import BaseModelError, HubError

# Larger than fp32 rounding errors over 12 layers, far smaller than what a wrong weight causes.
TOLERANCE = 1e-4

_LAYER_NAMES = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def _load(loader: Any, base: str, **options: Any) -> Any:
    """Call ``loader(base)``; if it fails, say in one sentence what is wrong."""
    local = Path(base).exists()
    if not local and (base.startswith((".", "/", "~")) or base.count("/") > 1):
        raise BaseModelError(f"There is no folder {base}: check the path given with --base.")
    if local and not Path(base, "config.json").is_file():
        raise BaseModelError(
            f"{base} is not a checkpoint, because it has no config.json: give the folder of one with --base."
        )
    try:
        return loader(base, **options)
    except (OSError, ValueError, KeyError) as error:
        # transformers may list every model it knows after the first sentence.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0]
        if local:
            raise BaseModelError(f"{base} can't be read as a checkpoint: {reason}") from error
        raise HubError(
            f"The checkpoint {base} can't be fetched from the Hugging Face Hub ({type(error).__name__}): check its "
            "name and the network, or give a local checkpoint with --base (and local reviews with --data)."
        ) from error


def _load_model(loader: Any, base: str, **options: Any) -> Any:
    """``_load`` for a loader of weights, with ``base`` possibly a bundle."""
    with checkpoint_of(base) as folder:
        return _load(loader, folder, **options)


def load_tokenizer(base: str, max_length: int) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a checkpoint, with truncation and padding turned off. Raises BaseModelError."""
    tokenizer = _load(AutoTokenizer.from_pretrained, base)
    if not getattr(tokenizer, "is_fast", False) or tokenizer.cls_token is None or tokenizer.pad_token is None:
        raise BaseModelError(
            f"The tokenizer of {base} is not a fast BERT tokenizer: use a BERT or DistilBERT checkpoint."
        )
    # Sentence-transformers' tokenizers pad and cut at 128; DistilBERT has no token types.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    # init_kwargs too, because save_pretrained writes them.
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    tokenizer.model_max_length = max_length
    return tokenizer


def _load_config(base: str, length: int, option: str) -> Any:
    """The configuration of a BERT or DistilBERT that reads ``length`` tokens. Raises BaseModelError."""
    config = _load(AutoConfig.from_pretrained, base)
    if config.model_type not in ("bert", "distilbert"):
        raise BaseModelError(f"{base} is a {config.model_type} checkpoint: give a DistilBERT or a BERT.")
    if length > config.max_position_embeddings:
        raise BaseModelError(
            f"{base} can read at most {config.max_position_embeddings} tokens: lower {option} from {length}."
        )
    return config


def layers_of(base: str, max_length: int) -> int:
    """The number of layers of a BERT or DistilBERT, from its configuration alone. Raises as ``load_classifier``."""
    layers: int = _load_config(base, max_length, "--max-length").num_hidden_layers
    return layers


def load_classifier(
    base: str, names: list[str], max_length: int, dropout: float, attention_dropout: float, classifier_dropout: float
) -> DistilBertForSequenceClassification:
    """A DistilBERT with a classification head for ``names``, its encoder from ``base``.

    The head is new, unless ``base`` is a DistilBERT classifier with exactly these labels, whose head is kept.

    Raises BaseModelError if ``base`` is neither BERT nor DistilBERT, HubError if it can't be fetched.
    """
    found = _load_config(base, max_length, "--max-length")
    config = distilbert_config(found, base) if found.model_type == "bert" else found
    keeps_head = _classifies(found, names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    config.dropout, config.attention_dropout = dropout, attention_dropout
    config.seq_classif_dropout = classifier_dropout
    config.architectures = ["DistilBertForSequenceClassification"]
    if keeps_head:
        return _load_model(DistilBertForSequenceClassification.from_pretrained, base, config=config).float()
    model = DistilBertForSequenceClassification(config)
    if found.model_type == "bert":
        encoder = distilbert_from_bert(_load_model(BertModel.from_pretrained, base, add_pooling_layer=False), config)
    else:
        encoder = _load_model(DistilBertModel.from_pretrained, base)
    model.distilbert.load_state_dict({name: value.float() for name, value in encoder.state_dict().items()})
    return model


def classifies(base: str, names: list[str], max_length: int) -> bool:
    """Whether ``base`` is a DistilBERT classifier with just the labels ``names``. Raises like ``load_classifier``."""
    return _classifies(_load_config(base, max_length, "--max-length"), names)


def _classifies(config: Any, names: list[str]) -> bool:
    same_labels = [config.id2label[i] for i in sorted(config.id2label)] == names
    return same_labels and "DistilBertForSequenceClassification" in (config.architectures or [])


@torch.no_grad()
def interpolate(model: torch.nn.Module, before: dict[str, torch.Tensor], share: float) -> None:
    """Move the weights of ``model`` towards ``before``, its state before a training, so that ``share`` of it is left.

    Source: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models", section 3.
    """
    with torch.no_grad():
        # Tied weights come once.
        for name, own in model.named_parameters():
            own.copy_(torch.lerp(before[name].to(own.device), own, share))


def load_masked_lm(
    base: str, chunk_length: int, dropout: float, attention_dropout: float, attention: str = "sdpa"
) -> tuple[DistilBertForMaskedLM, bool]:
    """A DistilBERT with a masked-LM head tied to its embeddings, from ``base``, and whether the head is new.

    The head of a DistilBERT or BERT checkpoint is kept. A checkpoint without one gets a transform that is the identity
    and a decoder bias of 0, so that training starts from the geometry of the embeddings and not from noise.
    ``attention`` is transformers' ``attn_implementation``.

    Raises BaseModelError if ``base`` is neither BERT nor DistilBERT, HubError if it can't be fetched.
    """
    config = _load_config(base, chunk_length, "--chunk-length")
    bert = config if config.model_type == "bert" else None
    if bert is not None:
        config = distilbert_config(bert, base)
    config.dropout, config.attention_dropout = dropout, attention_dropout
    config.architectures = ["DistilBertForMaskedLM"]
    config.tie_word_embeddings = True
    # Set before the model is made, because transformers 4 chooses the class of the layers by it.
    config._attn_implementation = attention
    if bert is not None:
        source, report = _load_model(BertForMaskedLM.from_pretrained, base, output_loading_info=True)
        model = DistilBertForMaskedLM(config)
        encoder = distilbert_from_bert(source.bert, config)
        model.distilbert.load_state_dict(encoder.state_dict())
        head = source.float().cls.predictions
        model.vocab_transform.load_state_dict(head.transform.dense.state_dict())
        model.vocab_layer_norm.load_state_dict(head.transform.LayerNorm.state_dict())
        new = any("transform" in name for name in report["missing_keys"])
        with torch.no_grad():
            model.vocab_projector.bias.copy_(head.bias)
    else:
        model, report = _load_model(
            DistilBertForMaskedLM.from_pretrained,
            base,
            config=config,
            attn_implementation=attention,
            output_loading_info=True,
        )
        model = model.float()
        new = any("vocab_transform" in name for name in report["missing_keys"])
    if new:
        with torch.no_grad():
            torch.nn.init.eye_(model.vocab_transform.weight)
            model.vocab_transform.bias.zero_()
            model.vocab_layer_norm.weight.fill_(1.0)
            model.vocab_layer_norm.bias.zero_()
            model.vocab_projector.bias.zero_()
    model.tie_weights()
    return model, new


def distilbert_config(bert: BertConfig, base: str) -> DistilBertConfig:
    """The configuration of the equivalent DistilBERT. Raises BaseModelError if there is none."""
    checks = {
        "hidden_act": bert.hidden_act in ("gelu", "relu"),
        "position_embedding_type": getattr(bert, "position_embedding_type", "absolute") == "absolute",
        "layer_norm_eps": bert.layer_norm_eps == 1e-12,
        "is_decoder": not getattr(bert, "is_decoder", False),
    }
    for name, right in checks.items():
        if not right:
            raise BaseModelError(
                f"{base} has {name} {getattr(bert, name)!r}, which DistilBERT can't express: use another checkpoint."
            )
    return DistilBertConfig(
        vocab_size=bert.vocab_size,
        max_position_embeddings=bert.max_position_embeddings,
        n_layers=bert.num_hidden_layers,
        n_heads=bert.num_attention_heads,
        dim=bert.hidden_size,
        hidden_dim=bert.intermediate_size,
        activation=bert.hidden_act,
        initializer_range=bert.initializer_range,
        pad_token_id=bert.pad_token_id,
    )


@torch.no_grad()
def distilbert_from_bert(bert: BertModel, config: DistilBertConfig) -> DistilBertModel:
    """The DistilBERT that computes what ``bert`` computes for texts of one segment.

    Row 0 of the token types is added to every row of the positions, and the pooler is dropped. The two models are
    compared on random ids. Raises BaseModelError if a hidden state differs by more than 1e-4.
    """
    # transformers 5 loads a checkpoint in its stored precision, which may be float16.
    bert = bert.float()
    source = bert.state_dict()
    target = {
        "embeddings.word_embeddings.weight": source["embeddings.word_embeddings.weight"],
        "embeddings.position_embeddings.weight": source["embeddings.position_embeddings.weight"]
        + source["embeddings.token_type_embeddings.weight"][0],
        "embeddings.LayerNorm.weight": source["embeddings.LayerNorm.weight"],
        "embeddings.LayerNorm.bias": source["embeddings.LayerNorm.bias"],
    }
    for layer in range(config.n_layers):
        for theirs, ours in _LAYER_NAMES.items():
            for part in ("weight", "bias"):
                target[f"transformer.layer.{layer}.{ours}.{part}"] = source[f"encoder.layer.{layer}.{theirs}.{part}"]
    model = DistilBertModel(config)
    model.load_state_dict(target)
    length = min(64, config.max_position_embeddings)
    ids = torch.randint(0, config.vocab_size, (2, length), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    bert.eval(), model.eval()
    expected = bert(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
    difference = (expected - model(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]).abs().max()
    if not difference <= TOLERANCE:
        raise BaseModelError(
            f"The DistilBERT made from this BERT differs from it by {difference:.2g}, over {TOLERANCE:.0e}: "
            "use another checkpoint."
        )
    return model
