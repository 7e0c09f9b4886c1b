"""SentimentOptions and FillMaskOptions: every hyperparameter, with its default and its help text.

>>> SentimentOptions(epochs=2.0).check()
>>> hyperparameters(SentimentOptions(scored="scored"))["data"] is None
True
"""

from __future__ import annotations

from dataclasses import Field, dataclass, fields
from typing import Any

from ..data.datasets import DATA
from ..data.text import SPECIAL
from ..edge_graph.schedule import Schedule
from ..errors import UsageError
from ..options import option
from ..runtime.hub import check_name

# The default checkpoint to start from.
BASE = "distilbert/distilbert-base-uncased"

PRECISIONS = ("auto", "bf16", "fp32")
UNITS = ("word", "token")
POLICIES = ("80-10-10", "mask")
ARCHITECTURES = ("auto", "distilbert", "keep")


@dataclass(frozen=True)
class Options:
    """The options of every task. Lengths are in tokens, rates are per step, ratios are from 0 to 1."""

    base: str = option(BASE, "Checkpoint to start from: a DistilBERT or BERT, as Hub id or folder, or an int8 bundle.")
    data: str | tuple[str, ...] | None = option(
        DATA,
        "Training data: Hub id, folder in the Hub's layout, or file (.csv, .tsv, .json, .jsonl, .parquet, also as .gz "
        "and .zst). Give it several times to train on a mixture.",
    )
    weights: str | None = option(
        None,
        "How often an epoch reads each --data, such as 1,0.5,4; 0.5 means half of its texts.  [default: once each]",
    )
    test_data: str | None = option(None, "Test reviews, if --data is a single file.")
    skip_test: bool = option(
        False, "Don't measure on test at the end, to save time: edge-imdb evaluate measures the exported bundle on it."
    )
    text_column: str | tuple[str, ...] = option(
        "text", "Column that holds the reviews; if the data sets differ, give it once for each --data, in their order."
    )
    delimiter: str | None = option(
        None, "Delimiter of a .csv or .tsv in --data.  [default: comma for .csv, tab for .tsv]"
    )
    output: str = option("runs", "Folder of runs; this run is written to OUTPUT/TASK.")
    leave_out: str | None = option(None, "File of texts that must not be trained on, of the kinds that --data takes.")
    limit: int | None = option(None, "Use at most this many reviews of train and of test, for a trial.")
    validation: float = option(
        0.05, "Share of train held out to compare checkpoints; at least 100 reviews, or a fifth of a small data set."
    )
    epochs: float = option(3.0, "Passes over train.")
    batch_size: int = option(32, "Reviews or chunks per batch, on each device.")
    eval_batch_size: int = option(64, "Reviews or chunks per batch when measuring.")
    gradient_accumulation: int = option(1, "Number of batches per step.")
    learning_rate: float = option(5e-5, "Peak learning rate of AdamW.")
    warmup: float = option(0.06, "Share of the steps over which the rate rises; then it falls linearly to 0.")
    weight_decay: float = option(0.01, "Weight decay; biases and layer norms have none.")
    adam_beta1: float = option(0.9, "AdamW's first-moment decay.")
    adam_beta2: float = option(0.999, "AdamW's second-moment decay.")
    adam_epsilon: float = option(1e-8, "AdamW's epsilon.")
    max_grad_norm: float = option(1.0, "Largest norm of the gradients; larger ones are clipped to it.")
    dropout: float = option(0.1, "Dropout on embeddings and feed-forward layers.")
    # At 0 PyTorch uses its fused attention on a CPU. With any dropout it falls back to an attention that is far slower,
    # and the longer the reviews, the slower it is.
    attention_dropout: float = option(0.0, "Dropout on attention weights; above 0, training on a CPU is far slower.")
    interpolation: float = option(
        1.0,
        "Share of the training to keep: below 1, the final weights are moved back towards those of --base, which must "
        "be a model of the same task and labels, so that it forgets less.",
    )
    precision: str = option("auto", "auto uses bf16 autocast if the device supports it.", PRECISIONS)
    seed: int = option(0, "Seed of the split, the order of the data and the initial weights.")
    country: str = option("USA", "ISO code of the country whose electricity mix the CO2 estimate uses.")
    push_to_hub: str | None = option(None, "Upload the finished folder to this Hub repository.")
    resume: bool = option(False, "Continue an unfinished run.")
    overwrite: bool = option(False, "Replace a finished run, or discard an unfinished one.")

    @classmethod
    def in_order(cls) -> list[Field[Any]]:
        """The fields, in the order of the help text."""
        return sorted(fields(cls), key=lambda option: option.name in _CLOSING)

    def check(self) -> None:
        """Raise UsageError for the first option that is out of range."""
        self._check_positive("epochs", "batch_size", "eval_batch_size", "gradient_accumulation", "learning_rate")
        self._check_positive("adam_epsilon", "max_grad_norm")
        self._check_ratios("validation", "warmup", "dropout", "attention_dropout", "adam_beta1", "adam_beta2")
        if self.weight_decay < 0:
            raise UsageError(f"--weight-decay is {self.weight_decay}: it must be 0 or more.")
        if not 0 < self.interpolation <= 1:
            raise UsageError(f"--interpolation is {self.interpolation}: it must be over 0 and at most 1.")
        if self.limit is not None and self.limit < 4:
            raise UsageError(f"--limit is {self.limit}: it must be 4 or more.")
        if self.resume and self.overwrite:
            raise UsageError("--resume continues a run and --overwrite discards it: give only one of them.")
        if self.push_to_hub is not None:
            check_name(self.push_to_hub)

    def _check_positive(self, *names: str) -> None:
        for name in names:
            if not getattr(self, name) > 0:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be over 0.")

    def _check_ratios(self, *names: str) -> None:
        for name in names:
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be from 0 to under 1.")


@dataclass(frozen=True)
class SentimentOptions(Options):
    """The options of ``edge-imdb train sentiment``.

    Without ``data``, the data set is the default one, unless there are ``scored`` texts: then these are all.
    """

    base: str = option(
        BASE,
        "Checkpoint to start from: any encoder that transformers can classify with, as Hub id or folder, or an int8 "
        "bundle.",
    )
    data: str | tuple[str, ...] | None = option(
        None,
        "Training data: Hub id, folder in the Hub's layout, or file (.csv, .tsv, .json, .jsonl, .parquet, also as .gz "
        "and .zst). Give it several times to train on a mixture.  "
        f"[default: {DATA}; with --scored, the scored texts alone]",
    )
    architecture: str = option(
        "auto",
        "auto turns a BERT into the equal DistilBERT and keeps any other encoder as it is; distilbert refuses an "
        "encoder that can't become a DistilBERT, which export needs; keep also keeps a BERT, to train it as a teacher.",
        ARCHITECTURES,
    )
    layers: int | None = option(
        None, "Start from this many evenly spaced layers of --base, to make a smaller student.  [default: all]"
    )
    freeze_embeddings: bool = option(
        False, "Don't train the embeddings and relative position biases, which saves time and memory."
    )
    tokens_per_batch: int | None = option(
        None,
        "Fill batches up to this many tokens, padding included, instead of --batch-size reviews.  "
        "[default: --batch-size]",
    )
    label_column: str = option(
        "label", "Column that holds the labels: words or whole numbers, two or more different ones."
    )
    scored: str | tuple[str, ...] | None = option(
        None,
        "Output of edge-imdb score, a file or a folder, to learn from: each text with the scores that a model gave it. "
        "Give it several times to learn the mean of several models.",
    )
    distillation_temperature: float = option(
        1.0,
        "Temperature at which the student learns the scores; above 1, it learns more about the less likely labels.",
    )
    hard_share: float = option(
        0.5, "Weight of the label, from 0 to 1, for a text that has both a label in --data and a score in --scored."
    )
    max_length: int = option(512, "Longest review in tokens; a longer review keeps only its head and its tail.")
    head_ratio: float = option(0.25, "Share of the tokens of a cut review that comes from its head.")
    truncated_copies: int = option(
        0,
        "Also train on a truncated copy, of this many tokens, of each longer review, so that the early exit is more "
        "confident; 0 turns it off.",
    )
    spans: int = option(
        0,
        "Also train on a random span of each longer review, of up to this many tokens, so that parts of a review get "
        "its label too; 0 turns it off.",
    )
    token_dropping: str | None = option(
        None,
        "Share of the tokens to keep after each layer except the last, such as 0.75,0.5,0.3,0.2,0.15: the model learns "
        "to work without the others, and its int8 graph skips them.  [default: keep all]",
    )
    label_smoothing: float = option(0.0, "Label smoothing.")
    classifier_dropout: float = option(0.2, "Dropout in front of the classifier.")
    evaluations_per_epoch: int = option(2, "Checkpoints and validations per epoch; the best checkpoint is kept.")

    def check(self) -> None:
        super().check()
        self._check_positive("evaluations_per_epoch")
        self._check_ratios("classifier_dropout", "label_smoothing")
        if self.architecture not in ARCHITECTURES:
            raise UsageError(f"--architecture is {self.architecture!r}: use {', '.join(ARCHITECTURES)}.")
        if self.layers is not None and self.layers < 1:
            raise UsageError(f"--layers is {self.layers}: it must be 1 or more.")
        if not 0 < self.distillation_temperature < float("inf"):
            raise UsageError(f"--distillation-temperature is {self.distillation_temperature}: it must be over 0.")
        if not 0 <= self.hard_share <= 1:
            raise UsageError(f"--hard-share is {self.hard_share}: it must be from 0 to 1.")
        if self.scored is None and self.distillation_temperature != 1:
            raise UsageError("--distillation-temperature is for --scored: give it too, or leave the temperature out.")
        # A batch is padded to a multiple of 8.
        longest = padded(self.max_length)
        if self.tokens_per_batch is not None and self.tokens_per_batch < longest:
            raise UsageError(
                f"--tokens-per-batch is {self.tokens_per_batch}: it must be {longest} or more, so that a review of "
                f"--max-length ({self.max_length}) fits."
            )
        if self.truncated_copies and not 3 <= self.truncated_copies < self.max_length:
            raise UsageError(
                f"--truncated-copies is {self.truncated_copies}: it must be 0, or from 3 to under --max-length "
                f"({self.max_length})."
            )
        if self.spans and not 8 <= self.spans <= self.max_length - SPECIAL:
            raise UsageError(
                f"--spans is {self.spans}: it must be 0, or from 8 to {self.max_length - SPECIAL}, which is "
                "--max-length less two."
            )
        if self.token_dropping:
            Schedule.parse(self.token_dropping)


@dataclass(frozen=True)
class FillMaskOptions(Options):
    """The options of ``edge-imdb train fill-mask``. The defaults are those of DistilBERT-DeNiro."""

    warmup: float = option(0.0, "Share of the steps over which the rate rises; then it falls linearly to 0.")
    precision: str = option("fp32", "bf16 means autocast; auto uses it if the device supports it.", PRECISIONS)
    decay: float = option(1.0, "Share of the steps, at the end, over which the rate falls linearly to 0.")
    averaging: float = option(
        0.0, "Use an exponential moving average of the weights, with this decay per step; 0 turns it off."
    )
    unsupervised: bool = option(False, "Also train on the split 'unsupervised' of --data.")
    chunk_length: int = option(256, "Tokens per chunk; reviews are joined and cut into chunks.")
    sentence_starts: float = option(
        0.0, "Share of the reviews whose chunks always begin with [CLS] and the start of a sentence."
    )
    evaluations_per_epoch: int = option(1, "Validations per epoch; the best weights are kept.")
    mask_probability: float = option(0.15, "Share of the words that are masked, drawn anew for every batch.")
    mask_unit: str = option("word", "What is masked: whole words or single tokens.", UNITS)
    mask_policy: str = option(
        "80-10-10",
        "What happens to the chosen words: 80 % are masked, 10 % replaced, 10 % kept; or all are masked.",
        POLICIES,
    )
    checkpoint_steps: int = option(500, "Number of steps between checkpoints to resume from.")

    def check(self) -> None:
        super().check()
        self._check_positive("chunk_length", "checkpoint_steps", "evaluations_per_epoch")
        self._check_ratios("averaging")
        for name in ("sentence_starts", "decay"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"--{name.replace('_', '-')} is {getattr(self, name)}: it must be from 0 to 1.")
        if not 0 < self.mask_probability <= 1:
            raise UsageError(f"--mask-probability is {self.mask_probability}: it must be over 0 and at most 1.")


# These come last in a help text, after the task's own options.
_CLOSING = ("precision", "seed", "country", "push_to_hub", "resume", "overwrite")


def padded(length: int) -> int:
    """The length to which a batch is padded whose longest text has ``length`` tokens: a multiple of 8."""
    return -(-length // 8) * 8


# Options that may differ when a run is resumed.
NOT_HYPERPARAMETERS = (
    "output",
    "skip_test",
    "eval_batch_size",
    "country",
    "push_to_hub",
    "resume",
    "overwrite",
    "checkpoint_steps",
)


def hyperparameters(options: Options) -> dict[str, Any]:
    """The options that decide the weights, as JSON has them. ``data`` is None if only scored texts are trained on."""
    values = {f.name: getattr(options, f.name) for f in fields(options) if f.name not in NOT_HYPERPARAMETERS}
    if values["data"] is None and values.get("scored") is None:
        values["data"] = DATA
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
