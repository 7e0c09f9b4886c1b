"""train_sentiment: fine-tune a classifier with the Trainer and write a folder that is ready for the Hub."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from datasets import Dataset
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..data.corpus import ENOUGH, Corpus, about_splits
from ..data.datasets import Reviews, sources_of
from ..data.metrics import accuracy, classification_metrics, fit_temperature, log_loss, softmax
from ..data.run_folder import public_name
from ..data.scored import Scored, ScoredCorpus, load_scored, read_corpus
from ..data.splits import fingerprint, sample
from ..data.text import ReviewEncoder, Truncation, clean
from ..edge_graph.schedule import Schedule
from ..errors import DataError, UsageError
from ..runtime.torch_device import computes_bf16
from ..tasks.sentiment import SentimentTask
from .base import (
    check_vocabulary,
    classifies,
    evenly_spaced,
    interpolate,
    keeps_architecture,
    load_classifier,
    load_config,
    load_tokenizer,
)
from .batches import GroupedByLength, TokenBatches
from .dropping import TokenDroppingClassifier
from .encoders import freeze_embeddings
from .energy import EnergyMeter
from .options import SentimentOptions, hyperparameters
from .progress import ProgressBar, RunLog, Steps, StopIfDiverged, check_finite, read_log
from .runs import Run, described, fingerprint_of, has_accelerator, open_run, setting

TASK = SentimentTask.name
# A validation log loss over this share of the log loss of a guess means that the run has learnt next to nothing.
HARDLY = 0.9

Floats = NDArray[np.float64]


def train_sentiment(
    options: SentimentOptions,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] | None = None,
    task: str = TASK,
) -> Path:
    """Train a classifier for ``task`` as ``options`` say and return the finished folder, ``options.output/TASK``.

    Until it is finished, everything is in ``TASK.partial`` beside it, which ``options.resume`` continues. ``say``
    gets one line for each fact worth showing. ``progress(step, steps)`` is called after each step, by the main process;
    without it a bar is drawn. With ``accelerate launch`` every process calls this.

    Raises UsageError, InputError, DataError, BaseModelError, HubError, OutputError, DivergedError.

    >>> options = SentimentOptions(data="reviews.csv", output="runs")
    >>> train_sentiment(options)  # doctest: +SKIP
    PosixPath('runs/sentiment')
    """
    options.check()
    with open_run(task, options, say, _last_checkpoint) as run:
        _train(options, run, progress)
        return run.target


def _train(options: SentimentOptions, run: Run, progress: Callable[[int, int], None] | None) -> None:
    state = run.state
    set_seed(options.seed)

    # The base and the options that depend on it are checked before the data are read, which may take minutes.
    truncation = Truncation(options.max_length, options.head_ratio)
    short = Truncation(options.truncated_copies, options.head_ratio) if options.truncated_copies else None
    schedule = Schedule.parse(options.token_dropping) if options.token_dropping else None
    config = load_config(options.base, options.max_length, architecture=options.architecture)
    kept = keeps_architecture(config, options.architecture)
    if kept:
        _refuse_options_of_distilbert(options, config.model_type)
    elif options.layers is not None:
        evenly_spaced(config.num_hidden_layers, options.layers, options.base)
    if schedule is not None:
        schedule.check(options.layers or config.num_hidden_layers)
    tokenizer = load_tokenizer(options.base, options.max_length, bert=not kept)
    check_vocabulary(options.base, tokenizer, config.vocab_size)
    encoder = ReviewEncoder(tokenizer.backend_tokenizer, truncation, bert=not kept)

    with state.main_process_first():
        data = read_corpus(hyperparameters(options))
        scored = _scored(options, data)
    if not data.validation.texts:
        raise DataError("No review is left for validation, because all are also in test: give other reviews.")
    names = data.train.names
    for line in _facts(data, scored):
        run.say(line)

    if options.interpolation < 1:
        _check_interpolation(options, names)
    model: PreTrainedModel = load_classifier(
        options.base,
        names,
        options.max_length,
        options.dropout,
        options.attention_dropout,
        options.classifier_dropout,
        options.architecture,
        options.layers,
    )
    fingerprints = _fingerprints(data, scored, tokenizer, model)
    if schedule is not None:
        model = TokenDroppingClassifier.of(model, schedule)
    if options.freeze_embeddings:
        run.say(f"{freeze_embeddings(model) / 1e6:.1f}M parameters of the embeddings are frozen")

    targets, others = _targets(options, data, scored)
    train_set = encode_reviews(data.train, encoder, short, options.spans, options.seed, targets)
    if others is not None:
        train_set = _joined(train_set, others, encoder)
    shares = data.validation_shares if isinstance(data, ScoredCorpus) else None
    # In order of length, so that a batch has almost no padding.
    validation_set = encode_reviews(data.validation, encoder, targets=shares)
    validation_set = validation_set.add_column("origin", data.origins).sort("length")
    batches = None
    if options.tokens_per_batch is not None:
        passes = math.ceil(options.epochs)
        batches = TokenBatches(
            train_set["length"][:], options.tokens_per_batch, passes, options.seed, state.num_processes
        )
    count = len(batches) if batches is not None else math.ceil(len(train_set) / options.batch_size)
    steps_per_epoch = math.ceil(math.ceil(count / state.num_processes) / options.gradient_accumulation)

    run.begin(_until, fingerprints)
    arguments = _training_arguments(options, run.partial, steps_per_epoch)
    meter = EnergyMeter(run.partial / "energy.json", options.country) if run.main else None
    measure = "agreement" if shares is not None else "accuracy"
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        compute_metrics=_compute_metrics,
        callbacks=[
            Steps(progress) if progress is not None else ProgressBar(measure),
            StopIfDiverged(),
            RunLog(run.log),
            *([meter] if meter else []),
        ],
    )
    trainer.batches, trainer.temperature = batches, options.distillation_temperature
    # Newer versions of transformers would normalise the loss of soft labels incorrectly.
    trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    device = described(arguments.device, state.num_processes, arguments.bf16)
    run.say(
        f"training {model.num_parameters() / 1e6:.1f}M parameters on {len(train_set)} reviews"
        f"{' and parts of reviews' if short or options.spans else ''} for "
        f"{options.epochs:g} epochs of {steps_per_epoch} steps, {device}"
    )
    before = copy.deepcopy(model.state_dict()) if options.interpolation < 1 else None
    trainer.train(resume_from_checkpoint=str(run.checkpoint) if run.checkpoint else None)
    if before is not None:
        interpolate(trainer.model, before, options.interpolation)

    validation = trainer.predict(validation_set)
    logits, labels = _logits(validation), np.asarray(validation.label_ids)
    check_finite({"validation logits": float(np.abs(logits).sum())}, trainer.state.global_step, options.learning_rate)
    temperature = fit_temperature(logits, labels)
    metrics: dict[str, Any] = {
        "labels": names,
        "architecture": model.config.model_type,
        # Whose labels validation has: if a teacher's, its accuracy is the agreement with the teacher.
        **({"reference": "teacher"} if shares is not None else {}),
        "truncation": truncation.as_dict(),
        "temperature": temperature,
        "validation": _measure(logits, labels, temperature),
        **({"token_dropping": list(schedule.kept)} if schedule else {}),
    }
    if len(data.sources) > 1:
        origins = np.array(validation_set["origin"])
        metrics["validation_by_source"] = {
            public_name(source): _measure(logits[origins == number], labels[origins == number], temperature)
            for number, source in enumerate(data.sources)
            # A source whose validation texts are all in test has none left.
            if (origins == number).any()
        }
    if data.test is not None and not options.skip_test:
        # The only time that the test split is read.
        run.say(f"measuring on {len(data.test.texts)} test reviews")
        test = trainer.predict(encode_reviews(data.test, encoder).sort("length"))
        metrics["test"] = _measure(_logits(test), test.label_ids, temperature)
    if run.main:
        assert meter is not None
        log = read_log(run.log, trainer.state.global_step)
        tokens = sum(train_set["length"]) * options.epochs
        cost = meter.stop()
        by_source = len(data.sources) > 1
        metrics |= {
            "best_step": trainer.state.best_global_step,
            "data": {
                "train": len(data.train.texts),
                "validation": len(data.validation.texts),
                "test": len(data.test.texts) if data.test else 0,
                "dropped_also_in_test": data.dropped,
                "left_out": data.left_out,
                **({"scored": len(scored.texts)} if scored else {}),
                **({"train_by_source": _by_name(data, data.train_rows)} if by_source else {}),
                "validation_fingerprint": fingerprint(data.validation.texts),
            },
            "cost": {**cost, "country": options.country, "train_tokens": int(tokens)},
            **setting(options, device),
        }
        for split in ("validation", "test"):
            if split in metrics:
                run.say(_figures(split, metrics[split], shares is not None and split == "validation"))
        for source, figures in metrics.get("validation_by_source", {}).items():
            run.say(_figures(f"validation, {source}", figures))
        for line in _warnings(metrics["validation"]["log_loss"], labels, names):
            run.say(line)
        trained = trainer.model
        run.finish(
            trained.plain() if isinstance(trained, TokenDroppingClassifier) else trained,
            tokenizer,
            metrics,
            log,
            "accuracy",
            "agreement with the teacher" if shares is not None else None,
        )


def _refuse_options_of_distilbert(options: SentimentOptions, model_type: str) -> None:
    """Raise UsageError for the first option that needs a DistilBERT."""
    for name in ("token_dropping", "truncated_copies", "layers"):
        if getattr(options, name):
            raise UsageError(
                f"--{name.replace('_', '-')} is for a DistilBERT, and {options.base} is trained as the {model_type} "
                "that it is: leave the option out."
            )


def _check_interpolation(options: SentimentOptions, names: list[str]) -> None:
    """Raise UsageError if there are no weights to move back to."""
    if options.layers is not None:
        raise UsageError(
            "--interpolation needs all layers of --base, and --layers leaves some out: give only one of both."
        )
    if not classifies(options.base, names, options.max_length, options.architecture):
        raise UsageError(
            f"--interpolation needs a --base that is a classifier of {', '.join(names)}, and {options.base} is none: "
            "leave it out, or give another --base."
        )


def _fingerprints(data: Corpus, scored: Scored | None, tokenizer: Any, model: PreTrainedModel) -> dict[str, str]:
    """What identifies the data and the base of a run, by their names in a sentence."""
    encoder = getattr(model, model.base_model_prefix)
    # A pooler may be new, and the random numbers of another version of PyTorch differ.
    weights = [value.detach().cpu().numpy() for name, value in encoder.named_parameters() if "pooler" not in name]
    found = {
        "the training reviews": fingerprint_of(data.train.names, data.train.texts, data.train.labels),
        "the validation reviews": fingerprint_of(data.validation.texts, data.validation.labels),
        "the test reviews": fingerprint_of(data.test.texts, data.test.labels) if data.test else "",
        "the base": fingerprint_of(tokenizer.backend_tokenizer.to_str(), weights),
    }
    if isinstance(data, ScoredCorpus):
        found["the scores"] = fingerprint_of(data.train_shares, data.validation_shares)
    elif scored is not None:
        found["the scored texts"] = fingerprint_of(scored.texts, scored.probabilities)
    return found


def _scored(options: SentimentOptions, data: Corpus) -> Scored | None:
    """The scored texts that are added to labelled ones. Raises InputError or DataError."""
    if options.scored is None or isinstance(data, ScoredCorpus):
        return None
    column = sources_of(options.text_column)[0]
    scored = load_scored(sources_of(options.scored), data.train.names, column, data.withheld)
    return scored if options.limit is None else scored.take(sample(scored.texts, options.limit, options.seed))


def _targets(
    options: SentimentOptions, data: Corpus, scored: Scored | None
) -> tuple[Floats | None, tuple[list[str], Floats] | None]:
    """The targets of the training reviews, None if their labels are all; the other scored texts with their targets.

    A text with a label and a score is trained on once, with a mixture of both. *Shape:* ``(reviews, targets)``, and as
    in ``soft_targets``.
    """
    if isinstance(data, ScoredCorpus):
        return soft_targets(data.train_shares, None, 0.0, options.distillation_temperature), None
    if scored is None:
        return None, None
    temperature = options.distillation_temperature
    certain = np.eye(len(data.train.names))[data.train.labels]
    at = {clean(text): row for row, text in enumerate(scored.texts)}
    rows = np.array([at.get(clean(text), -1) for text in data.train.texts])
    # A label without a score is the whole target.
    targets = np.where(
        (rows < 0)[:, None],
        soft_targets(certain, certain, 1.0, temperature),
        soft_targets(scored.probabilities[rows], certain, options.hard_share, temperature),
    )
    used = set(rows.tolist())
    left = [row for row in range(len(scored.texts)) if row not in used]
    others = soft_targets(scored.probabilities[left], None, 0.0, temperature)
    return targets, ([scored.texts[row] for row in left], others)


def soft_targets(shares: Floats, labels: Floats | None, hard_share: float, temperature: float) -> Floats:
    """The targets of a student for texts with a teacher's probabilities ``shares``, and possibly with ``labels``.

    *Shape:* ``(texts, labels)`` for both. At temperature 1 the targets are the mixture
    ``hard_share * labels + (1 - hard_share) * shares``, *shape:* ``(texts, labels)``. At another temperature its two
    parts stay apart, because only the second one is learnt at that temperature, *shape:* ``(texts, 2 * labels)``.
    Source: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network", section 2.

    >>> soft_targets(np.array([[0.2, 0.8]]), np.array([[1.0, 0.0]]), 0.5, 1.0)
    array([[0.6, 0.4]])
    >>> soft_targets(np.array([[0.2, 0.8]]), None, 0.0, 2.0).round(2)
    array([[0.  , 0.  , 0.33, 0.67]])
    """
    hard = np.zeros_like(shares) if labels is None else hard_share * labels
    if temperature == 1:
        return hard + (1 - hard_share) * shares
    # A probability is proportional to the exponential of its logit, so the root is the division of the logits.
    soft = shares ** (1 / temperature)
    soft /= soft.sum(axis=1, keepdims=True)
    return np.concatenate([hard, (1 - hard_share) * soft], axis=1)


def _joined(train_set: Dataset, others: tuple[list[str], Floats], encoder: ReviewEncoder) -> Dataset:
    """``train_set`` and other texts with their targets, of which no parts are added: a score is that of the whole."""
    texts, targets = others
    ids = [encoder.encode(text) for text in texts]
    columns = {
        "input_ids": train_set["input_ids"][:] + ids,
        "labels": np.concatenate([np.array(train_set["labels"][:]), targets]),
        "length": [*train_set["length"], *map(len, ids)],
    }
    return Dataset.from_dict(columns)


def _warnings(found: float, labels: Any, names: list[str]) -> list[str]:
    """Warnings for the end of a run: that it has learnt next to nothing, or that its figures can't tell.

    ``found`` is the log loss on validation, whose ``labels`` are indices into ``names`` or a teacher's probabilities.
    *Shape:* ``(rows,)`` or ``(rows, labels)``.
    """
    lines = []
    certain = np.eye(len(names))[labels] if labels.ndim == 1 else labels
    shares = certain.mean(axis=0)
    guess = -sum(float(share) * math.log(share) for share in shares if share)
    # No student has a lower log loss than the teacher's own uncertainty; that of a label is 0.
    least = -float((certain * np.log(np.clip(certain, 1e-12, 1.0))).sum(axis=1).mean())
    if found - least > HARDLY * (guess - least):
        lines.append(
            f"WARNING: the model is hardly better than a guess (log loss {found:.4f}; always giving the labels' shares "
            f"has {guess:.4f}): give more reviews, or train longer with --epochs."
        )
    present = set(certain.argmax(axis=1).tolist())
    lacking = [name for number, name in enumerate(names) if number not in present]
    if lacking:
        lines.append(
            f"WARNING: no validation review has the label {' or '.join(map(repr, lacking))}, so the figures above "
            "don't cover it: give more reviews with it, or a higher --validation."
        )
    if len(labels) < ENOUGH:
        lines.append(f"WARNING: the figures above are of only {len(labels)} reviews, so they mean little.")
    return lines


def _by_name(corpus: Corpus, rows: list[int]) -> dict[str, int]:
    return {public_name(source): count for source, count in zip(corpus.sources, rows, strict=True)}


def _until(checkpoint: Path, log: list[dict[str, float]]) -> list[dict[str, float]]:
    """The records up to a checkpoint of the Trainer."""
    step = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
    return [record for record in log if record["step"] <= step]


class _Trainer(Trainer):
    """The Trainer, with batches of similar length in random order, and labels that may be probabilities."""

    batches: TokenBatches | None = None
    temperature = 1.0

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        """The mean loss of a batch, whose labels are indices, or targets as ``soft_targets`` gives them."""
        labels = inputs.get("labels")
        if labels is None or not labels.is_floating_point():
            return super().compute_loss(model, inputs, return_outputs, **more)
        output = model(**{name: value for name, value in inputs.items() if name != "labels"})
        logits = output.logits.float()
        smoothing = self.args.label_smoothing_factor
        if labels.shape[1] == logits.shape[1]:
            loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        else:
            hard, soft = labels.split(logits.shape[1], dim=1)
            hard = (1 - smoothing) * hard + smoothing * hard.mean(1, keepdim=True)
            losses = -(hard * logits.log_softmax(1)).sum(1)
            # The square keeps the gradients of both parts in proportion (Hinton et al. 2015, section 2).
            losses = losses - self.temperature**2 * (soft * (logits / self.temperature).log_softmax(1)).sum(1)
            loss = losses.mean()
        return (loss, output) if return_outputs else loss

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The loader of ``batches``, if there are any, else the Trainer's own."""
        if self.batches is None:
            own: DataLoader[Any] = super().get_train_dataloader()
            return own
        loader = DataLoader(
            self._remove_unused_columns(self.train_dataset, description="training"),
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )
        # accelerate can only make batches of one size even, and these are already as many on each process.
        before, self.accelerator.even_batches = self.accelerator.even_batches, False
        try:
            prepared: DataLoader[Any] = self.accelerator.prepare(loader)
            return prepared
        finally:
            self.accelerator.even_batches = before

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedByLength:
        # Not from the argument, which no longer has the columns that the model doesn't take.
        return GroupedByLength(self.train_dataset["length"], self.args.train_batch_size, self.args.seed)


def _last_checkpoint(partial: Path) -> Path | None:
    """The newest complete checkpoint: the Trainer writes trainer_state.json last."""
    whole = []
    for folder in partial.glob("checkpoint-*"):
        try:
            whole.append((json.loads((folder / "trainer_state.json").read_text())["global_step"], folder))
        except (OSError, ValueError, KeyError):
            continue
    return max(whole)[1] if whole else None


def _facts(corpus: Corpus, scored: Scored | None) -> list[str]:
    facts = [f"labels: {', '.join(corpus.train.names)}"]
    if len(corpus.sources) > 1:
        held = [corpus.origins.count(number) for number in range(len(corpus.sources))]
        facts += [
            f"{source}: {rows} rows of train in an epoch, {out} of validation"
            for (source, rows), out in zip(_by_name(corpus, corpus.train_rows).items(), held, strict=True)
        ]
    facts += about_splits(
        len(corpus.train.texts),
        len(corpus.validation.texts),
        len(corpus.test.texts) if corpus.test else None,
        corpus.dropped,
        corpus.left_out,
    )
    if isinstance(corpus, ScoredCorpus):
        facts.append(
            f"all texts are scored ({corpus.skipped} rows without a label are left out), so validation measures the "
            "agreement with the teacher"
        )
    elif scored is not None:
        facts.append(
            f"scored: {len(scored.texts)} texts ({scored.skipped} rows without a label, {scored.withheld} texts that "
            "are in validation, test or --leave-out)"
        )
    return facts


def encode_reviews(
    reviews: Reviews,
    encoder: ReviewEncoder,
    short: Truncation | None = None,
    spans: int = 0,
    seed: int = 0,
    targets: Floats | None = None,
) -> Dataset:
    """The reviews as the model reads them, and for training parts of them with the same label.

    With ``short`` a truncated copy of each longer review is added: at run time the early exit reads such a review
    (`runtime.bundle.EarlyExit`), and a model that has only seen whole reviews is less confident about it than it could
    be. With ``spans`` a random span of each review of more tokens is added, of a quarter of them up to ``spans``.
    ``targets``, *shape:* ``(reviews, numbers)``, replace the labels.
    """
    draw = np.random.RandomState(seed % 2**32)
    ids, labels = [], []
    for text, label in zip(reviews.texts, reviews.labels if targets is None else targets, strict=True):
        tokens = encoder.tokens(text)
        cuts = [encoder.cut(tokens)]
        if short is not None and len(encoder.cut(tokens, short)) < len(cuts[0]):
            cuts.append(encoder.cut(tokens, short))
        if spans and len(tokens) > spans:
            length = draw.randint(max(1, spans // 4), spans + 1)
            start = draw.randint(0, len(tokens) - length + 1)
            cuts.append(encoder.cut(tokens[start : start + length]))
        ids += [encoder.frame(cut) for cut in cuts]
        labels += [label] * len(cuts)
    columns = {"input_ids": ids, "labels": labels if targets is None else np.array(labels)}
    return Dataset.from_dict({**columns, "length": [len(row) for row in ids]})


def _training_arguments(options: SentimentOptions, partial: Path, steps_per_epoch: int) -> TrainingArguments:
    steps = math.ceil(steps_per_epoch * options.epochs)
    interval = max(1, min(steps, steps_per_epoch // options.evaluations_per_epoch))
    return TrainingArguments(
        output_dir=str(partial),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.eval_batch_size,
        gradient_accumulation_steps=options.gradient_accumulation,
        optim="adamw_torch_fused",
        learning_rate=options.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=round(options.warmup * steps),
        weight_decay=options.weight_decay,
        adam_beta1=options.adam_beta1,
        adam_beta2=options.adam_beta2,
        adam_epsilon=options.adam_epsilon,
        max_grad_norm=options.max_grad_norm,
        label_smoothing_factor=options.label_smoothing,
        bf16=options.precision == "bf16" or (options.precision == "auto" and computes_bf16()),
        use_cpu=not has_accelerator(),
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=interval,
        save_steps=interval,
        save_total_limit=2,
        load_best_model_at_end=True,
        # Accuracy moves in large steps on a small validation set, so that the first checkpoint wins every tie. The log
        # loss before calibration punishes a longer training for overconfidence, which the temperature corrects.
        metric_for_best_model="calibrated_log_loss",
        greater_is_better=False,
        logging_steps=max(1, min(20, interval)),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        seed=options.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    logits, labels = _logits(prediction), np.asarray(prediction.label_ids)
    if not np.isfinite(logits).all():
        # StopIfDiverged reports them, with the step.
        return dict.fromkeys(("accuracy", "log_loss", "calibrated_log_loss"), math.nan)
    calibrated = softmax(logits, fit_temperature(logits, labels))
    return {
        "accuracy": accuracy(calibrated, labels),
        "log_loss": log_loss(softmax(logits), labels),
        "calibrated_log_loss": log_loss(calibrated, labels),
    }


def _logits(output: Any) -> Floats:
    # Some architectures give hidden states too.
    found = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
    return np.asarray(found, dtype=np.float64)


def _measure(logits: Any, labels: Any, temperature: float) -> dict[str, float]:
    before = classification_metrics(softmax(logits), labels)
    after = classification_metrics(softmax(logits, temperature), labels)
    return {
        **after,
        "log_loss_uncalibrated": before["log_loss"],
        "calibration_error_uncalibrated": before["calibration_error"],
    }


def _figures(split: str, figures: dict[str, float], of_teacher: bool = False) -> str:
    measure = "agreement with the teacher" if of_teacher else "accuracy"
    return (
        f"{split}: {measure} {100 * figures['accuracy']:.2f} %, F1 {100 * figures['f1']:.2f} %, "
        f"log loss {figures['log_loss']:.4f}, calibration error {100 * figures['calibration_error']:.2f} % "
        f"(before temperature scaling {100 * figures['calibration_error_uncalibrated']:.2f} %)"
    )
