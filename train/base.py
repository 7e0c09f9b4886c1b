"""load_tokenizer, load_classifier and load_masked_lm: the checkpoint to start from, a BERT made DistilBERT."""

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

from ..errors import BaseModelError, HubError
from .bundles import checkpoint_of

# Bigger than fp32 rounding over 12 layers, far smaller than any wrong weight.
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
    """Call ``loader(base)`` and say in one sentence what is wrong where it fails."""
    local = Path(base).exists()
    if not local and (base.startswith((".", "/", "~")) or base.count("/") > 1):
        raise BaseModelError(f"There is no folder {base}: check the path given with --base.")
    if local and not Path(base, "config.json").is_file():
        raise BaseModelError(f"{base} is no checkpoint, for it has no config.json: give the folder of one with --base.")
    try:
        return loader(base, **options)
    except (OSError, ValueError, KeyError) as error:
        # transformers may list every model it knows behind the first sentence.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0]
        if local:
            raise BaseModelError(f"{base} can't be read as a checkpoint: {reason}") from error
        raise HubError(
            f"The checkpoint {base} can't be had from the Hugging Face Hub ({type(error).__name__}): check its name "
            "and the network, or give a local checkpoint with --base (and local reviews with --data)."
        ) from error


def _load_model(loader: Any, base: str, **options: Any) -> Any:
    """``_load`` for a loader of weights, which ``base`` may hold as a bundle."""
    with checkpoint_of(base) as folder:
        return _load(loader, folder, **options)


def load_tokenizer(base: str, max_length: int) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a checkpoint, without a truncation or padding of its own. Raises BaseModelError."""
    tokenizer = _load(AutoTokenizer.from_pretrained, base)
    if not getattr(tokenizer, "is_fast", False) or tokenizer.cls_token is None or tokenizer.pad_token is None:
        raise BaseModelError(f"The tokenizer of {base} is no fast BERT tokenizer: use a BERT or DistilBERT checkpoint.")
    # Sentence-transformers' tokenizers pad and cut at 128; DistilBERT has no token types.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    # init_kwargs too, for that is what save_pretrained writes.
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    tokenizer.model_max_length = max_length
    return tokenizer


def _load_config(base: str, length: int, option: str) -> Any:
    """The configuration of a BERT or DistilBERT that reads ``length`` tokens. Raises BaseModelError."""
    config = _load(AutoConfig.from_pretrained, base)
    if config.model_type not in ("bert", "distilbert"):
        raise BaseModelError(
            f"{base} is a {config.model_type} checkpoint: give a DistilBERT, or a BERT to be turned into one."
        )
    if length > config.max_position_embeddings:
        raise BaseModelError(
            f"{base} reads {config.max_position_embeddings} tokens at most: lower {option} from {length}."
        )
    return config


def load_classifier(
    base: str, names: list[str], max_length: int, dropout: float, attention_dropout: float, classifier_dropout: float
) -> DistilBertForSequenceClassification:
    """A DistilBERT with a classification head for ``names``, its encoder from ``base``.

    The head is a fresh one, unless ``base`` is a DistilBERT classifier of just these labels, whose head it keeps.

    Raises BaseModelError where ``base`` is neither BERT nor DistilBERT, HubError where it can't be fetched.
    """
    found = _load_config(base, max_length, "--max-length")
    config = distilbert_config(found, base) if found.model_type == "bert" else found
    same_labels = [found.id2label[i] for i in sorted(found.id2label)] == names
    keeps_head = same_labels and "DistilBertForSequenceClassification" in (found.architectures or [])
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


def load_masked_lm(
    base: str, chunk_length: int, dropout: float, attention_dropout: float, attention: str = "sdpa"
) -> tuple[DistilBertForMaskedLM, bool]:
    """A DistilBERT with a masked-LM head tied to its embeddings, from ``base``, and whether the head is a new one.

    The head of a DistilBERT or BERT checkpoint is kept. A checkpoint without one gets a transform that is the identity
    and a decoder bias of 0, so that training starts from the embeddings' own geometry and not from noise. ``attention``
    is transformers' ``attn_implementation``.

    Raises BaseModelError where ``base`` is neither BERT nor DistilBERT, HubError where it can't be fetched.
    """
    config = _load_config(base, chunk_length, "--chunk-length")
    bert = config if config.model_type == "bert" else None
    if bert is not None:
        config = distilbert_config(bert, base)
    config.dropout, config.attention_dropout = dropout, attention_dropout
    config.architectures = ["DistilBertForMaskedLM"]
    config.tie_word_embeddings = True
    # Before the model is made: transformers 4 chooses the layers' class by it.
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
    """The configuration of the equal DistilBERT. Raises BaseModelError where there is none."""
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

    Row 0 of the token types is added to every position's row; the pooler is left behind. The two are compared on
    random ids; BaseModelError where a hidden state differs by more than 1e-4.
    """
    # transformers 5 loads a checkpoint in the precision that it was stored in, float16 perhaps.
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
