"""ProgressBar, Steps, StopIfDiverged and RunLog: what a run shows while it trains, and its records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Imported at the top, so that a missing package is reported before the run starts.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import DivergedError
from ..output import write_text


class ProgressBar(TrainerCallback):
    """One bar for the whole run: step, time left, latest loss, and ``measure`` (the accuracy) on validation."""

    def __init__(self, measure: str = "accuracy") -> None:
        self._measure = measure
        self._bar: tqdm | None = None
        self._measuring: tqdm | None = None
        self._shown: dict[str, str] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="train", unit="step", smoothing=0.05
            )

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if self._bar is not None and logs:
            if "loss" in logs:
                self._shown["loss"] = f"{logs['loss']:.3f}"
            if "eval_accuracy" in logs:
                self._shown[self._measure] = f"{100 * logs['eval_accuracy']:.2f}%"
            self._bar.set_postfix(self._shown)

    def on_prediction_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero:
            if self._measuring is None:
                self._measuring = tqdm(total=len(eval_dataloader), desc="measure", unit="batch", leave=False)
            self._measuring.update()

    def _measured(self, *arguments: Any, **kwargs: Any) -> None:
        if self._measuring is not None:
            self._measuring.close()
            self._measuring = None

    on_evaluate = on_predict = _measured

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


class Steps(TrainerCallback):
    """Calls ``progress(step, steps)`` at the start, after each step and at the end, for a caller with a bar."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress

    def _tell(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._progress(state.global_step, state.max_steps)

    on_train_begin = on_step_end = on_train_end = _tell


class StopIfDiverged(TrainerCallback):
    """Raises DivergedError at the first record of the Trainer that isn't finite, on every process."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        check_finite(logs or {}, state.global_step, args.learning_rate)


def check_finite(figures: dict[str, float], step: int, learning_rate: float) -> None:
    """Raise DivergedError if a figure of a training is NaN or infinite.

    >>> check_finite({"loss": float("nan")}, 20, 1e6)
    Traceback (most recent call last):
    edge_imdb.errors.DivergedError: The training diverged: its loss is nan at step 20, with the peak learning rate \
1e+06. Begin anew with a lower --learning-rate and --overwrite.
    """
    for name, value in figures.items():
        if isinstance(value, (int, float)) and not math.isfinite(value):
            raise DivergedError(
                f"The training diverged: its {name.replace('_', ' ')} is {value} at step {step}, with the peak "
                f"learning rate {learning_rate:g}. Begin anew with a lower --learning-rate and --overwrite."
            )


class RunLog(TrainerCallback):
    """Appends every record of the Trainer to ``path``, one JSON object per line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if state.is_world_process_zero and logs:
            write_record({"step": state.global_step, "epoch": round(state.epoch or 0, 4), **logs}, self._path)


def write_record(record: dict[str, float], path: Path) -> None:
    """Append one record to a log."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, allow_nan=False) + "\n")


def read_log(path: Path, until: int | None = None) -> list[dict[str, float]]:
    """The records of a log, without those after step ``until`` and without an incomplete last line."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if until is None or record["step"] <= until:
            records.append(record)
    return records


def write_log(records: list[dict[str, float]], path: Path) -> None:
    """Write a whole log, one JSON object per line."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def draw_curves(
    records: list[dict[str, float]], path: Path, measure: str = "accuracy", title: str | None = None
) -> None:
    """Draw training and validation loss, and ``measure`` (accuracy or perplexity), over the steps into a PNG."""
    curves = (
        (0, "loss", "train"),
        (0, "eval_loss", "validation"),
        (0, "validation_log_loss", "validation"),
        (1, f"eval_{measure}", "validation"),
        (1, f"validation_{measure}", "validation"),
        (1, f"test_{measure}", "test"),
    )
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    for panel, key, label in curves:
        points = [(record["step"], record[key]) for record in records if key in record]
        if points:
            panels[panel].plot(*zip(*points, strict=True), label=label, marker=None if key == "loss" else "o")
    panels[0].set(xlabel="step", ylabel="cross-entropy (nats)", title="Loss")
    panels[1].set(xlabel="step", ylabel=title or measure, title=(title or measure).capitalize())
    for axes in panels:
        if axes.has_data():
            axes.legend()
    figure.savefig(path, dpi=120)
