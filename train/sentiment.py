"""train_sentiment: fine-tune a DistilBERT classifier with the Trainer and write a folder that is ready for the Hub."""

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
from transformers import (
    DataCollatorWithPadding,
    EvalPrediction,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
    set_seed,
)

from ..data.corpus import ENOUGH, Corpus, about_splits, load_corpus
from ..data.datasets import Reviews, sources_of
from ..data.metrics import accuracy, classification_metrics, fit_temperature, log_loss, softmax
from ..data.run_folder import public_name
from ..data.splits import fingerprint, sample
from ..data.text import ReviewEncoder, Truncation
from ..edge_graph.schedule import Schedule
from ..errors import UsageError
from .base import classifies, interpolate, layers_of, load_classifier, load_tokenizer
from .batches import GroupedByLength
from .dropping import TokenDroppingClassifier
from .energy import EnergyMeter
from .options import SentimentOptions, hyperparameters
from .progress import ProgressBar, RunLog, read_log
from .runs import Run, computes_bf16, described, has_accelerator, open_run, setting
from .scored import Scored, load_scored

TASK = "sentiment"
# A validation log loss over this share of that of a guess means that the run has learnt next to nothing.
HARDLY = 0.9


def train_sentiment(options: SentimentOptions, say: Callable[[str], None] = lambda line: None) -> Path:
    """Train as ``options`` say and return the finished folder, ``options.output/sentiment``.

    Until it is finished, everything is in ``sentiment.partial`` beside it, which ``options.resume`` continues. ``say``
    gets one line for each fact worth showing. With ``accelerate launch`` every process calls this.

    Raises UsageError, InputError, DataError, BaseModelError, HubError, OutputError.
    """
    options.check()
    with open_run(TASK, options, say, _last_checkpoint) as run:
        _train(options, run)
        return run.target


def _train(options: SentimentOptions, run: Run) -> None:
    state = run.state
    set_seed(options.seed)
    truncation = Truncation(options.max_length, options.head_ratio)
    short = Truncation(options.truncated_copies, options.head_ratio) if options.truncated_copies else None
    schedule = Schedule.parse(options.token_dropping) if options.token_dropping else None
    tokenizer = load_tokenizer(options.base, options.max_length)
    if schedule is not None:
        # Before the data are read, which may take minutes.
        schedule.check(layers_of(options.base, options.max_length))
    encoder = ReviewEncoder(tokenizer.backend_tokenizer, truncation)
    with state.main_process_first():
        data = load_corpus(hyperparameters(options))
        scored = _scored(options, data)
    for line in _facts(data):
        run.say(line)
    if scored is not None:
        run.say(
            f"scored: {len(scored.texts)} texts ({scored.skipped} rows without a label, {scored.withheld} texts that "
            "are in validation, test or --leave-out)"
        )
    names = data.train.names
    if options.interpolation < 1 and not classifies(options.base, names, options.max_length):
        raise UsageError(
            f"--interpolation needs a --base that is a classifier of {', '.join(names)}, and {options.base} is none: "
            "leave it out, or give another --base."
        )
    model = load_classifier(
        options.base, names, options.max_length, options.dropout, options.attention_dropout, options.classifier_dropout
    )
    if schedule is not None:
        model = TokenDroppingClassifier.of(model, schedule)
    train_set = encode_reviews(data.train, encoder, short, options.spans, options.seed)
    if scored is not None:
        train_set = _with_scored(train_set, scored, encoder)
    # In order of length, so that a batch has almost no padding.
    validation_set = encode_reviews(data.validation, encoder).add_column("origin", data.origins).sort("length")
    steps_per_epoch = math.ceil(
        math.ceil(len(train_set) / (options.batch_size * state.num_processes)) / options.gradient_accumulation
    )
    run.begin(_until)
    arguments = _training_arguments(options, run.partial, steps_per_epoch)
    meter = EnergyMeter(run.partial / "energy.json", options.country) if run.main else None
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        compute_metrics=_compute_metrics,
        callbacks=[ProgressBar(), RunLog(run.log), *([meter] if meter else [])],
    )
    if scored is not None:
        # Else versions of transformers whose model does would count the labels, and here each row has several.
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
    temperature = fit_temperature(_logits(validation), validation.label_ids)
    metrics: dict[str, Any] = {
        "labels": data.train.names,
        "truncation": truncation.as_dict(),
        "temperature": temperature,
        "validation": _measure(_logits(validation), validation.label_ids, temperature),
        **({"token_dropping": list(schedule.kept)} if schedule else {}),
    }
    if len(data.sources) > 1:
        origins = np.array(validation_set["origin"])
        metrics["validation_by_source"] = {
            public_name(source): _measure(
                _logits(validation)[origins == number], validation.label_ids[origins == number], temperature
            )
            for number, source in enumerate(data.sources)
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
        metrics |= {
            "best_step": trainer.state.best_global_step,
            "data": {
                "train": len(data.train.texts),
                "validation": len(data.validation.texts),
                "test": len(data.test.texts) if data.test else 0,
                "dropped_also_in_test": data.dropped,
                "left_out": data.left_out,
                **({"scored": len(scored.texts)} if scored else {}),
                **({"train_by_source": _by_name(data, data.train_rows)} if len(data.sources) > 1 else {}),
                "validation_fingerprint": fingerprint(data.validation.texts),
            },
            "cost": {**cost, "country": options.country, "train_tokens": int(tokens)},
            **setting(options, device),
        }
        for split in ("validation", "test"):
            if split in metrics:
                run.say(_figures(split, metrics[split]))
        for source, figures in metrics.get("validation_by_source", {}).items():
            run.say(_figures(f"validation, {source}", figures))
        for line in _warnings(metrics["validation"]["log_loss"], validation.label_ids):
            run.say(line)
        trained = trainer.model
        run.finish(
            trained.plain() if isinstance(trained, TokenDroppingClassifier) else trained,
            tokenizer,
            metrics,
            log,
            "accuracy",
        )


def _scored(options: SentimentOptions, data: Corpus) -> Scored | None:
    """The texts of ``options.scored`` that may be trained on. Raises InputError or DataError."""
    if options.scored is None:
        return None
    column = sources_of(options.text_column)[0]
    scored = load_scored(sources_of(options.scored), data.train.names, column, data.withheld)
    return scored if options.limit is None else scored.take(sample(scored.texts, options.limit, options.seed))


def _with_scored(train_set: Dataset, scored: Scored, encoder: ReviewEncoder) -> Dataset:
    """``train_set`` and the scored texts. Each row's label is then the probability of each label, ``(labels,)``.

    No parts of a scored text are added: the score is that of the whole.
    """
    ids = [encoder.encode(text) for text in scored.texts]
    certain = np.eye(scored.probabilities.shape[1])
    columns = {
        "input_ids": train_set["input_ids"][:] + ids,
        "labels": np.concatenate([certain[train_set["labels"][:]], scored.probabilities]),
        "length": [*train_set["length"], *map(len, ids)],
    }
    return Dataset.from_dict(columns)


def _warnings(found: float, labels: Any) -> list[str]:
    """What should not be missed at the end of a run: that it has learnt next to nothing, or can't tell.

    ``found`` is the log loss on validation, whose ``labels``, *shape:* ``(rows,)``, are indices.
    """
    lines = []
    shares = np.bincount(labels) / len(labels)
    guess = -sum(float(share) * math.log(share) for share in shares if share)
    if found > HARDLY * guess:
        lines.append(
            f"WARNING: the model is hardly better than a guess (log loss {found:.4f}; always giving the labels' shares "
            f"has {guess:.4f}): give more reviews, or train longer with --epochs."
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

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **more: Any) -> Any:
        """The loss of a batch; where its labels are probabilities, ``(batch, labels)``, their cross-entropy."""
        labels = inputs.get("labels")
        if labels is None or not labels.is_floating_point():
            return super().compute_loss(model, inputs, return_outputs, **more)
        output = model(**{name: value for name, value in inputs.items() if name != "labels"})
        loss = F.cross_entropy(output.logits.float(), labels, label_smoothing=self.args.label_smoothing_factor)
        return (loss, output) if return_outputs else loss

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


def _facts(corpus: Corpus) -> list[str]:
    facts = [f"labels: {', '.join(corpus.train.names)}"]
    if len(corpus.sources) > 1:
        held = [corpus.origins.count(number) for number in range(len(corpus.sources))]
        facts += [
            f"{source}: {rows} rows of train in an epoch, {out} of validation"
            for (source, rows), out in zip(_by_name(corpus, corpus.train_rows).items(), held, strict=True)
        ]
    return facts + about_splits(
        len(corpus.train.texts),
        len(corpus.validation.texts),
        len(corpus.test.texts) if corpus.test else None,
        corpus.dropped,
        corpus.left_out,
    )


def encode_reviews(
    reviews: Reviews, encoder: ReviewEncoder, short: Truncation | None = None, spans: int = 0, seed: int = 0
) -> Dataset:
    """The reviews as the model reads them, and for training parts of them with the same label.

    With ``short`` a truncated copy of each longer review is added: at run time the early exit reads such a review
    (`runtime.bundle.EarlyExit`), and a model that has only seen whole reviews is less confident about it than it could
    be. With ``spans`` a random span of each review of more tokens is added, of a quarter of them up to ``spans``.
    """
    draw = np.random.RandomState(seed % 2**32)
    ids, labels = [], []
    for text, label in zip(reviews.texts, reviews.labels, strict=True):
        tokens = encoder.tokens(text)
        cuts = [encoder.truncation.cut(tokens)]
        if short is not None and len(short.cut(tokens)) < len(cuts[0]):
            cuts.append(short.cut(tokens))
        if spans and len(tokens) > spans:
            length = draw.randint(max(1, spans // 4), spans + 1)
            start = draw.randint(0, len(tokens) - length + 1)
            cuts.append(tokens[start : start + length])
        ids += [encoder.frame(cut) for cut in cuts]
        labels += [label] * len(cuts)
    return Dataset.from_dict({"input_ids": ids, "labels": labels, "length": [len(row) for row in ids]})


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
        # Not accuracy: on a small validation set it moves in large steps, and the first checkpoint wins every tie. And
        # not the log loss as it is: it charges a longer training for being too sure, which the temperature mends.
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
    calibrated = softmax(logits, fit_temperature(logits, labels))
    return {
        "accuracy": accuracy(calibrated, labels),
        "log_loss": log_loss(softmax(logits), labels),
        "calibrated_log_loss": log_loss(calibrated, labels),
    }


def _logits(output: Any) -> Any:
    return np.asarray(output.predictions, dtype=np.float64)


def _measure(logits: Any, labels: Any, temperature: float) -> dict[str, float]:
    before = classification_metrics(softmax(logits), labels)
    after = classification_metrics(softmax(logits, temperature), labels)
    return {
        **after,
        "log_loss_uncalibrated": before["log_loss"],
        "calibration_error_uncalibrated": before["calibration_error"],
    }


def _figures(split: str, figures: dict[str, float]) -> str:
    return (
        f"{split}: accuracy {100 * figures['accuracy']:.2f} %, F1 {100 * figures['f1']:.2f} %, "
        f"log loss {figures['log_loss']:.4f}, calibration error {100 * figures['calibration_error']:.2f} % "
        f"(before temperature scaling {100 * figures['calibration_error_uncalibrated']:.2f} %)"
    )
