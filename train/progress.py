"""ProgressBar and RunLog: what a run shows while it trains, and its records (log.jsonl, curves.png)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

# Imported at the top, so that a missing package is reported before the run and not after it.
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from tqdm.auto import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..output import write_text


class ProgressBar(TrainerCallback):
    """One bar for the whole run: step, time left, latest loss, accuracy on validation."""

    def __init__(self) -> None:
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
                self._shown["accuracy"] = f"{100 * logs['eval_accuracy']:.2f}%"
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
        file.write(json.dumps(record) + "\n")


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


def draw_curves(records: list[dict[str, float]], path: Path, measure: str = "accuracy") -> None:
    """Draw training and validation loss, and accuracy or perplexity, over the steps into a PNG."""
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
    panels[1].set(xlabel="step", ylabel=measure, title=measure.capitalize())
    for axes in panels:
        if axes.has_data():
            axes.legend()
    figure.savefig(path, dpi=120)
