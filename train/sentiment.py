"""train_sentiment: fine-tunes a DistilBERT classifier with the Trainer and leaves a Hub-ready folder."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
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

from ..corpus import Corpus, load_corpus
from ..errors import UsageError
from ..metrics import accuracy, classification_metrics, fit_temperature, log_loss, softmax
from ..options import SentimentOptions, hyperparameters
from ..reading import Reviews
from ..splits import fingerprint
from ..text import ReviewEncoder, Truncation
from .base import load_classifier, load_tokenizer
from .batches import GroupedByLength
from .card import publish_to_hub, write_card
from .energy import EnergyMeter
from .progress import ProgressBar, RunLog, read_log, write_log
from .runs import (
    check_options,
    computes_bf16,
    described,
    find_checkpoint,
    finish,
    has_accelerator,
    keep_memory,
    open_partial,
    quiet_libraries,
    setting,
    writing,
)

TASK = "sentiment"


def train_sentiment(options: SentimentOptions, say: Callable[[str], None] = lambda line: None) -> Path:
    """Train as ``options`` say and return the finished folder, ``options.output/sentiment``.

    Until it is finished, everything stands in its sibling ``sentiment.partial``, from which ``options.resume`` goes
    on. ``say`` gets a line for each fact worth showing. Under ``accelerate launch`` every process calls this.

    Raises UsageError, InputError, DataError, BaseModelError, HubError, OutputError.
    """
    check_options(options, positive=("evaluations_per_epoch",), ratios=("classifier_dropout", "label_smoothing"))
    if options.short_copies and not 3 <= options.short_copies < options.max_length:
        raise UsageError(
            f"--short-copies is {options.short_copies}: it must be 0, or from 3 to under --max-length "
            f"({options.max_length})."
        )
    quiet_libraries()
    keep_memory()
    state = PartialState(cpu=not has_accelerator())
    if not state.is_main_process:
        say = lambda line: None  # noqa: E731
    target = Path(options.output) / TASK
    with writing(target, state.is_main_process):
        _train(options, target, state, say)
    return target


def _train(options: SentimentOptions, target: Path, state: PartialState, say: Callable[[str], None]) -> None:
    partial = target.with_name(f"{TASK}.partial")
    checkpoint = find_checkpoint(options, target, partial, state.num_processes, _last_checkpoint)

    set_seed(options.seed)
    truncation = Truncation(options.max_length, options.head_ratio)
    short = Truncation(options.short_copies, options.head_ratio) if options.short_copies else None
    tokenizer = load_tokenizer(options.base, options.max_length)
    encoder = ReviewEncoder(tokenizer.backend_tokenizer, truncation)
    with state.main_process_first():
        data = load_corpus(hyperparameters(options))
    for line in _facts(data):
        say(line)
    model = load_classifier(
        options.base,
        data.train.names,
        options.max_length,
        options.dropout,
        options.attention_dropout,
        options.classifier_dropout,
    )
    train_set = _encode(data.train, encoder, short)
    # In order of length, so that a batch holds next to no padding.
    validation_set = _encode(data.validation, encoder).sort("length")
    steps_per_epoch = math.ceil(
        math.ceil(len(train_set) / (options.batch_size * state.num_processes)) / options.gradient_accumulation
    )
    # Not before everything that a wrong option would stop at.
    state.wait_for_everyone()
    if state.is_main_process:
        if checkpoint is None:
            open_partial(TASK, options, partial, state.num_processes)
        else:
            # Records after the checkpoint will be made again.
            step = json.loads((checkpoint / "trainer_state.json").read_text())["global_step"]
            write_log(read_log(partial / "log.jsonl", step), partial / "log.jsonl")
    state.wait_for_everyone()
    arguments = _training_arguments(options, partial, steps_per_epoch)
    meter = EnergyMeter(partial / "energy.json", options.country) if state.is_main_process else None
    trainer = _Trainer(
        model=model,
        args=arguments,
        train_dataset=train_set,
        eval_dataset=validation_set,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer, pad_to_multiple_of=8),
        compute_metrics=_compute_metrics,
        callbacks=[ProgressBar(), RunLog(partial / "log.jsonl"), *([meter] if meter else [])],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    device = described(arguments.device, state.num_processes, arguments.bf16)
    say(
        f"training {model.num_parameters() / 1e6:.1f}M parameters on {len(train_set)} reviews"
        f"{' and short copies' if short else ''} for "
        f"{options.epochs:g} epochs of {steps_per_epoch} steps, {device}"
    )
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    validation = trainer.predict(validation_set)
    temperature = fit_temperature(_logits(validation), validation.label_ids)
    metrics: dict[str, Any] = {
        "task": TASK,
        "labels": data.train.names,
        "truncation": truncation.as_dict(),
        "temperature": temperature,
        "validation": _measure(_logits(validation), validation.label_ids, temperature),
    }
    if data.test is not None:
        # The one time that the test split is read.
        say(f"measuring on {len(data.test.texts)} test reviews")
        test = trainer.predict(_encode(data.test, encoder).sort("length"))
        metrics["test"] = _measure(_logits(test), test.label_ids, temperature)
    if state.is_main_process:
        assert meter is not None
        log = read_log(partial / "log.jsonl", trainer.state.global_step)
        tokens = sum(train_set["length"]) * options.epochs
        cost = meter.stop()
        metrics |= {
            "best_step": trainer.state.best_global_step,
            "data": {
                "train": len(data.train.texts),
                "validation": len(data.validation.texts),
                "test": len(data.test.texts) if data.test else 0,
                "dropped_also_in_test": data.dropped,
                "validation_fingerprint": fingerprint(data.validation.texts),
            },
            "cost": {**cost, "country": options.country, "train_tokens": int(tokens)},
            **setting(options, device),
        }
        finish(target, partial, trainer.model, tokenizer, metrics, log, "accuracy", write_card)
        for split in ("validation", "test"):
            if split in metrics:
                say(_figures(split, metrics[split]))
        say(f"wrote {target}")
        if options.push_to_hub:
            say(f"uploaded to {publish_to_hub(target, options.push_to_hub)}")
    state.wait_for_everyone()


class _Trainer(Trainer):
    """The Trainer with batches of like length in random order."""

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedByLength:
        # Not from the argument, which has lost the columns that the model doesn't take.
        return GroupedByLength(self.train_dataset["length"], self.args.train_batch_size, self.args.seed)


def _last_checkpoint(partial: Path) -> Path | None:
    """The newest checkpoint that is whole: the Trainer writes trainer_state.json last."""
    whole = []
    for folder in partial.glob("checkpoint-*"):
        try:
            whole.append((json.loads((folder / "trainer_state.json").read_text())["global_step"], folder))
        except (OSError, ValueError, KeyError):
            continue
    return max(whole)[1] if whole else None


def _facts(corpus: Corpus) -> list[str]:
    train, validation, test = (
        len(part.texts) if part else 0 for part in (corpus.train, corpus.validation, corpus.test)
    )
    facts = [f"labels: {', '.join(corpus.train.names)}"]
    if test:
        facts.append(f"dropped {corpus.dropped} train reviews that also stand in the test split")
    facts.append(f"reviews: {train} train, {validation} validation, {test or 'no'} test")
    return facts


def _encode(reviews: Reviews, encoder: ReviewEncoder, short: Truncation | None = None) -> Dataset:
    """The reviews as the model reads them; with ``short`` also cut to that, each that is longer.

    A first reading at run time is just such a cut (edge_imdb.bundle.FirstReading), which a model that only ever saw
    whole reviews is less sure of than it could be.
    """
    ids, labels = [], []
    for text, label in zip(reviews.texts, reviews.labels, strict=True):
        tokens = encoder.tokens(text)
        cuts = [encoder.truncation.cut(tokens)]
        if short is not None and len(short.cut(tokens)) < len(cuts[0]):
            cuts.append(short.cut(tokens))
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
        metric_for_best_model="accuracy",
        logging_steps=max(1, min(20, interval)),
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        seed=options.seed,
        dataloader_pin_memory=torch.cuda.is_available(),
    )


def _compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    probabilities = softmax(np.asarray(prediction.predictions))
    labels = np.asarray(prediction.label_ids)
    return {"accuracy": accuracy(probabilities, labels), "log_loss": log_loss(probabilities, labels)}


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
