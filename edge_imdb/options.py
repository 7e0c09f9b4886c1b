"""SentimentOptions and FillMaskOptions: every hyperparameter once, with its default and its help."""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

from .defaults import BASE, DATA

# Files of a finished run that training writes and export reads: its figures, which also mark the folder as one of our
# runs, and its options, which serve --resume and export on this machine and name its paths.
METRICS = "metrics.json"
RECORD = "run.json"
PRECISIONS = ("auto", "bf16", "fp32")
UNITS = ("word", "token")
POLICIES = ("80-10-10", "mask")


def _option(default: Any, text: str, choices: tuple[str, ...] | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices})


@dataclass(frozen=True)
class Options:
    """What every task can be told. Lengths in tokens, rates a step, ratios from 0 to 1."""

    base: str = _option(BASE, "Checkpoint to start from: Hub id or folder, DistilBERT or BERT; or an int8 bundle.")
    data: str = _option(DATA, "Hub id, folder in the Hub's layout, or .csv, .jsonl, .parquet file.")
    test_data: str | None = _option(None, "Test reviews, where --data is a single file.")
    text_column: str = _option("text", "Column of the reviews.")
    output: str = _option("runs", "Folder of runs; this one goes to OUTPUT/TASK.")
    limit: int | None = _option(None, "For a trial: at most so many reviews of train, and of test.")
    validation: float = _option(0.05, "Share of train held out, on which checkpoints are compared.")
    epochs: float = _option(3.0, "Passes over train.")
    batch_size: int = _option(32, "Reviews or chunks a batch and device.")
    eval_batch_size: int = _option(64, "Reviews or chunks a batch when measuring.")
    gradient_accumulation: int = _option(1, "Batches that make one step.")
    learning_rate: float = _option(5e-5, "Peak learning rate of AdamW.")
    warmup: float = _option(0.06, "Share of the steps over which the rate rises; then it falls linearly to 0.")
    weight_decay: float = _option(0.01, "Decay of weights, biases and layer norms left out.")
    adam_beta1: float = _option(0.9, "AdamW's first-moment decay.")
    adam_beta2: float = _option(0.999, "AdamW's second-moment decay.")
    adam_epsilon: float = _option(1e-8, "AdamW's epsilon.")
    max_grad_norm: float = _option(1.0, "Norm that gradients are clipped to.")
    dropout: float = _option(0.1, "Dropout on embeddings and feed-forward layers.")
    # At 0 PyTorch takes its fused attention on a CPU; with any dropout it falls back to one that is far slower, the
    # more so the longer the reviews.
    attention_dropout: float = _option(0.0, "Dropout on attention weights; over 0 training is far slower on a CPU.")
    precision: str = _option("auto", "auto takes bf16 autocast where the device computes in it.", PRECISIONS)
    seed: int = _option(0, "Seed of the split, the order and the weights.")
    country: str = _option("USA", "ISO code of the country whose electricity the CO2 estimate assumes.")
    push_to_hub: str | None = _option(None, "Upload the finished folder to this Hub repository.")
    resume: bool = _option(False, "Go on with an unfinished run.")
    overwrite: bool = _option(False, "Replace a finished run, or drop an unfinished one.")


@dataclass(frozen=True)
class SentimentOptions(Options):
    """What ``edge-imdb train sentiment`` can be told."""

    label_column: str = _option("label", "Column of the labels: words or whole numbers, any number of them.")
    max_length: int = _option(512, "Tokens a review; a longer one keeps its head and its tail.")
    head_ratio: float = _option(0.25, "The head's share of a review that is cut.")
    short_copies: int = _option(
        0, "Train on each longer review cut to so many tokens too, for a surer first reading; 0: don't."
    )
    label_smoothing: float = _option(0.0, "Label smoothing.")
    classifier_dropout: float = _option(0.2, "Dropout before the classifier.")
    evaluations_per_epoch: int = _option(2, "Checkpoints and validations in each epoch; the best is kept.")


@dataclass(frozen=True)
class FillMaskOptions(Options):
    """What ``edge-imdb train fill-mask`` can be told. The defaults are those of DistilBERT-DeNiro."""

    warmup: float = _option(0.0, "Share of the steps over which the rate rises; then it falls linearly to 0.")
    precision: str = _option("fp32", "bf16 is autocast; auto takes it where the device computes in it.", PRECISIONS)
    unsupervised: bool = _option(False, "Train on the split 'unsupervised' of --data too.")
    chunk_length: int = _option(256, "Tokens a chunk; reviews are joined and cut into chunks.")
    mask_probability: float = _option(0.15, "Share of the words that are masked, drawn afresh at every batch.")
    mask_unit: str = _option("word", "Mask whole words, or tokens.", UNITS)
    mask_policy: str = _option(
        "80-10-10", "Of the chosen words mask 80 %, replace 10 %, keep 10 %; or mask them all.", POLICIES
    )
    checkpoint_steps: int = _option(500, "Steps between two checkpoints to resume from.")


# What a person reads last in a help text: a task's own fields come before these.
_CLOSING = ("precision", "seed", "country", "push_to_hub", "resume", "overwrite")


def fields_in_order(kind: type[Options]) -> list[Field[Any]]:
    """The fields of a task's options in the order of its help."""
    return sorted(fields(kind), key=lambda option: option.name in _CLOSING)


# What may differ between a run and its resumption.
NOT_HYPERPARAMETERS = ("output", "eval_batch_size", "country", "push_to_hub", "resume", "overwrite", "checkpoint_steps")


def hyperparameters(options: Options) -> dict[str, Any]:
    """The options that decide the weights."""
    return {f.name: getattr(options, f.name) for f in fields(options) if f.name not in NOT_HYPERPARAMETERS}
