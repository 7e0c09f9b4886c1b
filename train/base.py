"""load_tokenizer, load_classifier and load_masked_lm: the checkpoint to start from; a BERT becomes a DistilBERT."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError
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
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ..edge_graph.read import checkpoint_of
from ..errors import BaseModelError, EdgeImdbError, HubError, UsageError
from ..runtime.bundle import MANIFEST
from ..runtime.checkpoint import check_checkpoint
from .encoders import check_encoder, length_limit, load_encoder, plain_architecture

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
# The errors of transformers, tokenizers, safetensors and PyTorch for a checkpoint that can't be read. Other errors,
# such as that of a signal handler, are not about the checkpoint.
_UNREADABLE = (
    OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, ImportError, AssertionError,
    ArithmeticError, SafetensorError,
    *(getattr(hub_errors, name) for name in ("StrictDataclassError",) if hasattr(hub_errors, name)),
)  # fmt: skip
_OF_A_LAYER = re.compile(r"(^|\.)layers?\.[0-9]+\.")


def _load(loader: Callable[..., Any], base: str, name: str | None = None, **options: Any) -> Any:
    """Call ``loader(base)``; if it fails, say in one sentence what is wrong with ``name``, or ``base``."""
    name = name or base
    local = Path(base).exists()
    if not local and (base.startswith((".", "/", "~")) or base.count("/") > 1):
        raise BaseModelError(f"There is no folder {base}: check the path given with --base.")
    if local and name == base and not Path(base, MANIFEST).is_file():
        check_checkpoint(Path(base))
    try:
        return loader(base, trust_remote_code=False, **options)
    except EdgeImdbError:
        raise
    except Exception as error:
        # tokenizers raises bare Exceptions.
        if not isinstance(error, _UNREADABLE) and type(error) is not Exception:
            raise
        if "trust_remote_code" in str(error):
            raise BaseModelError(
                f"{name} needs code from its own repository, which edge-imdb never runs: give a checkpoint of an "
                "architecture that transformers itself has."
            ) from error
        # transformers may list every model it knows after the first sentence.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].split(". ")[0].rstrip(".")
        if local or not isinstance(error, (OSError, ValueError, LookupError)):
            raise BaseModelError(f"{name} can't be read as a checkpoint ({reason}): give another --base.") from error
        raise HubError(
            f"The checkpoint {name} can't be fetched from the Hugging Face Hub ({type(error).__name__}): check its "
            "name and the network, or give a local checkpoint with --base (and local reviews with --data)."
        ) from error


def _load_model(
    loader: Callable[..., Any], base: str, may_be_new: Callable[[str], bool] = lambda weight: False, **options: Any
) -> tuple[Any, set[str]]:
    """A model with the weights of ``base``, which may be a bundle, and the names of its weights that are new.

    Raises BaseModelError if the weights don't fit the configuration: if one has another shape, is missing though it
    isn't one that ``may_be_new``, or belongs to a layer that the configuration doesn't have.
    """
    with checkpoint_of(base) as folder:
        options |= {"use_safetensors": True, "ignore_mismatched_sizes": True, "output_loading_info": True}
        model, report = _load(loader, folder, base, **options)
    misfit = f"The weights of {base} don't fit its config.json"
    hint = "use a checkpoint whose two files belong together."
    missing = set(report["missing_keys"])
    # transformers lists a weight of another shape as (name, its shape, the model's).
    other = {entry[0] if isinstance(entry, (tuple, list)) else entry for entry in report["mismatched_keys"]}
    for kind, found in (("have no", missing - other), ("have another shape of", other)):
        if wrong := sorted(weight for weight in found if not may_be_new(weight)):
            raise BaseModelError(f"{misfit}: they {kind} {wrong[0]}; {hint}")
    if extra := sorted(weight for weight in report["unexpected_keys"] if _OF_A_LAYER.search(weight)):
        raise BaseModelError(f"{misfit}: they have {extra[0]}, which it leaves out; {hint}")
    return model.float(), missing | other


def load_tokenizer(base: str, max_length: int, bert: bool = True) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a checkpoint, with truncation and padding turned off.

    With ``bert`` it is to be a BERT's, and gives no token types. Raises BaseModelError or HubError.
    """
    tokenizer = _load(AutoTokenizer.from_pretrained, base, use_fast=True)
    if not getattr(tokenizer, "is_fast", False):
        raise BaseModelError(f"The tokenizer of {base} is not a fast one (tokenizer.json): use another checkpoint.")
    if tokenizer.pad_token is None or (bert and tokenizer.cls_token is None):
        raise BaseModelError(
            f"The tokenizer of {base} has no {'[CLS] or ' if bert else ''}padding token: use another checkpoint."
        )
    # Sentence-transformers' tokenizers pad and cut at 128; DistilBERT has no token types.
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.backend_tokenizer.no_padding()
    if bert:
        # init_kwargs too, because save_pretrained writes them.
        tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = ["input_ids", "attention_mask"]
    tokenizer.model_max_length = max_length
    return tokenizer


def check_vocabulary(base: str, tokenizer: PreTrainedTokenizerFast, embeddings: int) -> None:
    """Raise BaseModelError if a tokenizer has ids for which there are no embeddings."""
    largest = max(tokenizer.get_vocab().values())
    if largest >= embeddings:
        raise BaseModelError(
            f"{base} has {embeddings} embeddings and a tokenizer with ids up to {largest}: use a checkpoint whose "
            "tokenizer is its own."
        )


def load_config(base: str, length: int, option: str = "--max-length", architecture: str = "distilbert") -> Any:
    """The configuration of a checkpoint that reads ``length`` tokens, given by ``option``.

    ``architecture`` is the option of that name: with ``distilbert`` the checkpoint must be a BERT or a DistilBERT,
    otherwise any encoder with a classifier in transformers. Raises BaseModelError or HubError.
    """
    config = _load(AutoConfig.from_pretrained, base)
    if not keeps_architecture(config, architecture):
        if config.model_type not in ("bert", "distilbert"):
            hint = "give a DistilBERT or a BERT"
            raise BaseModelError(f"{base} is {_article(config.model_type)} checkpoint: {hint}.")
        limit: int | None = config.max_position_embeddings
    else:
        check_encoder(config, base)
        limit = _load(lambda folder, **options: length_limit(config), base)
    if limit is not None and length > limit:
        raise BaseModelError(f"{base} can read at most {limit} tokens: lower {option} from {length}.")
    return config


def keeps_architecture(config: Any, architecture: str) -> bool:
    """Whether a checkpoint is trained as it is, and not as a DistilBERT; ``architecture`` as in SentimentOptions."""
    if architecture == "distilbert" or config.model_type == "distilbert":
        return False
    return bool(config.model_type != "bert" or architecture == "keep")


def _article(model_type: str) -> str:
    return f"{'an' if model_type[0] in 'aeiou' else 'a'} {model_type}"


def load_classifier(
    base: str,
    names: list[str],
    max_length: int,
    dropout: float,
    attention_dropout: float,
    classifier_dropout: float,
    architecture: str = "distilbert",
    layers: int | None = None,
) -> PreTrainedModel:
    """A classifier for the labels ``names``, its encoder from ``base``: a DistilBERT unless ``architecture`` differs.

    The head is new, unless ``base`` is a classifier with exactly these labels, whose head is kept. ``layers`` keeps
    that many evenly spaced layers of a DistilBERT.

    Raises BaseModelError if ``base`` can't be read or is of another kind, HubError if it can't be fetched, and
    UsageError if it has fewer than ``layers`` layers.
    """
    found = load_config(base, max_length, architecture=architecture)
    if keeps_architecture(found, architecture):
        plain_architecture(found, names, dropout, attention_dropout, classifier_dropout)
        return load_encoder(base, found, classifies(base, names, max_length, architecture), _load_model)
    config = distilbert_config(found, base) if found.model_type == "bert" else found
    keeps_head = _classifies(found, names)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: i for i, name in enumerate(names)}
    config.problem_type = "single_label_classification"
    config.dropout, config.attention_dropout = dropout, attention_dropout
    config.seq_classif_dropout = classifier_dropout
    config.architectures = ["DistilBertForSequenceClassification"]
    if keeps_head:
        model, _ = _load_model(DistilBertForSequenceClassification.from_pretrained, base, config=config)
    else:
        # A configuration can contradict itself.
        model = _load(lambda folder, **options: DistilBertForSequenceClassification(config), base)
        if found.model_type == "bert":
            bert, _ = _load_model(BertModel.from_pretrained, base, add_pooling_layer=False)
            encoder = distilbert_from_bert(bert, config)
        else:
            encoder, _ = _load_model(DistilBertModel.from_pretrained, base)
        model.distilbert.load_state_dict({name: value.float() for name, value in encoder.state_dict().items()})
    return model if layers is None else with_layers(model, evenly_spaced(config.n_layers, layers, base))


def evenly_spaced(total: int, wanted: int, base: str = "The base") -> list[int]:
    """The numbers of ``wanted`` of ``total`` layers, the first and the last among them, at even distances.

    Source: Sanh et al. 2019, "DistilBERT", section 2, which starts a student from every other layer of its teacher.
    Raises UsageError if there are too few.

    >>> evenly_spaced(12, 4)
    [0, 4, 7, 11]
    """
    if not 1 <= wanted <= total:
        raise UsageError(f"--layers is {wanted}: {base} has {total} layers, so it must be from 1 to {total}.")
    return [round(i * (total - 1) / max(1, wanted - 1)) for i in range(wanted)]


@torch.no_grad()
def with_layers(model: DistilBertForSequenceClassification, kept: list[int]) -> DistilBertForSequenceClassification:
    """A DistilBERT classifier with the layers ``kept`` of ``model``, in that order, and everything else of it."""
    config = type(model.config).from_dict({**model.config.to_dict(), "n_layers": len(kept)})
    layer = "distilbert.transformer.layer."
    state = {name: value for name, value in model.state_dict().items() if not name.startswith(layer)}
    for number, source in enumerate(kept):
        begin = f"{layer}{source}."
        for name, value in model.state_dict().items():
            if name.startswith(begin):
                state[f"{layer}{number}.{name.removeprefix(begin)}"] = value
    smaller = type(model)(config)
    smaller.load_state_dict(state)
    return smaller


def classifies(base: str, names: list[str], max_length: int, architecture: str = "distilbert") -> bool:
    """Whether ``base`` is a classifier with just the labels ``names``. Raises like ``load_classifier``."""
    config = load_config(base, max_length, architecture=architecture)
    return _classifies(config, names, keeps_architecture(config, architecture))


def _classifies(config: Any, names: list[str], kept: bool = False) -> bool:
    same_labels = [config.id2label[i] for i in sorted(config.id2label)] == names
    kinds = config.architectures or []
    if kept:
        return same_labels and any(kind.endswith("ForSequenceClassification") for kind in kinds)
    return same_labels and "DistilBertForSequenceClassification" in kinds


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
    config = load_config(base, chunk_length, "--chunk-length")
    bert = config if config.model_type == "bert" else None
    if bert is not None:
        config = distilbert_config(bert, base)
    config.dropout, config.attention_dropout = dropout, attention_dropout
    config.architectures = ["DistilBertForMaskedLM"]
    config.tie_word_embeddings = True
    # Set before the model is made, because transformers 4 chooses the class of the layers by it.
    config._attn_implementation = attention
    if bert is not None:
        source, added = _load_model(BertForMaskedLM.from_pretrained, base, lambda name: name.startswith("cls."))
        model = DistilBertForMaskedLM(config)
        encoder = distilbert_from_bert(source.bert, config)
        model.distilbert.load_state_dict(encoder.state_dict())
        head = source.cls.predictions
        model.vocab_transform.load_state_dict(head.transform.dense.state_dict())
        model.vocab_layer_norm.load_state_dict(head.transform.LayerNorm.state_dict())
        new = any("transform" in name for name in added)
        with torch.no_grad():
            model.vocab_projector.bias.copy_(head.bias)
    else:
        model, added = _load_model(
            DistilBertForMaskedLM.from_pretrained,
            base,
            lambda name: name.startswith("vocab_"),
            config=config,
            attn_implementation=attention,
        )
        new = any("vocab_transform" in name for name in added)
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
                f"{base} has {name} {getattr(bert, name)!r}, which DistilBERT can't express: use another checkpoint, "
                "or, for a teacher, train it as it is with --architecture keep."
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
