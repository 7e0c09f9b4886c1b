"""SentimentExporter: the steps of an export that are particular to a sentiment run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from ..data.metrics import fit_temperature
from ..data.run_folder import public_name
from ..data.scored import ScoredCorpus, read_corpus
from ..data.splits import sample
from ..edge_graph.schedule import Schedule
from ..errors import GateError
from ..runtime.behaviour import EarlyExit
from ..runtime.options import RuntimeOptions
from ..tasks import TASKS
from ..tasks.sentiment.figures import evaluate_sentiment
from ..tasks.sentiment.pipeline import TASK, Sentiment
from .early_exit import choose_early_exit
from .exporter import CALIBRATION, Exporter, Figures
from .options import ExportOptions

# The number of validation reviews whose logits are compared with PyTorch's.
COMPARED = 64
# --max-loss-rise is for this many validation reviews or more.
ENOUGH = 1000


class SentimentExporter(Exporter[Sentiment]):
    name = TASK

    def read(self, options: dict[str, Any]) -> list[str]:
        corpus = read_corpus(options)
        self._train, self._validation = corpus.train, corpus.validation
        # Without labels, those of the teacher: what is measured is then the agreement with it.
        self._targets = (
            corpus.validation_shares if isinstance(corpus, ScoredCorpus) else np.array(self._validation.labels)
        )
        self._groups = [str(public_name(corpus.sources[origin])) for origin in corpus.origins]
        return corpus.validation.texts

    def open(self, folder: Path, precision: str, exact: bool = False) -> Sentiment:
        model: Sentiment = TASKS[self.name].open(
            RuntimeOptions(folder, provider="cpu", precision=precision), exact=exact
        )
        return model

    @property
    def schedule(self) -> Schedule | None:
        kept = self.metrics.get("token_dropping")
        return None if kept is None else Schedule(tuple(kept))

    def reschedule(self, schedule: Schedule) -> None:
        schedule.check(json.loads((self.source / "config.json").read_text(encoding="utf-8"))["n_layers"])
        self.metrics["token_dropping_trained"] = self.metrics.get("token_dropping")
        self.metrics["token_dropping"] = list(schedule.kept)

    def recalibrate(self, int8: Sentiment) -> None:
        logits = np.array([int8.logits(text) for text in self._validation.texts])
        self.metrics["temperature"] = fit_temperature(logits, self._targets)

    def behaviour(self, folder: Path) -> dict[str, Any]:
        return {
            "labels": self.metrics["labels"],
            "truncation": self.metrics["truncation"],
            "calibration": {"method": "temperature", "temperature": self.metrics["temperature"]},
            "early_exit": None,
            "token_dropping": None if self.schedule is None else {"kept": list(self.schedule.kept)},
        }

    @torch.no_grad()
    def difference(self, fp32: Sentiment) -> float:
        model = AutoModelForSequenceClassification.from_pretrained(self.source, attn_implementation="eager").eval()
        largest = 0.0
        for text in self._validation.texts[:COMPARED]:
            ids = torch.tensor([fp32.encode(text)])
            expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy()
            largest = max(largest, float(np.abs(expected - fp32.logits(text)).max()))
        return largest

    def calibration(self, fp32: Sentiment) -> list[Sequence[int]]:
        texts = self._train.texts
        return [fp32.encode(texts[i]) for i in sample(texts, CALIBRATION, seed=0)]

    def measure(self, model: Sentiment) -> Figures:
        return evaluate_sentiment(model, self._validation, groups=self._groups)

    def describe(self, figures: Figures) -> str:
        groups = "; ".join(
            f"{name} {100 * group['accuracy']:.2f} %" for name, group in figures.get("groups", {}).items()
        )
        measure = "agreement with the teacher" if self.metrics.get("reference") == "teacher" else "accuracy"
        return (
            f"{figures['reviews']} validation reviews: {measure} {100 * figures['accuracy']:.2f} %"
            f"{f' ({groups})' if groups else ''}, log loss {figures['log_loss']:.4f}"
        )

    def check_gate(self, fp32: Figures, int8: Figures, options: ExportOptions) -> None:
        # Both are rounded, so that exactly the limit passes in spite of rounding errors. A single review is always
        # allowed, because on a small validation set it alone is more than the limit.
        drop = 100 * (fp32["accuracy"] - int8["accuracy"])
        if round(drop, 6) > max(options.max_drop, round(100 / int8["reviews"], 6)):
            raise GateError(
                f"int8 loses {drop:.2f} points of accuracy on {int8['reviews']} validation reviews, over "
                f"{options.max_drop:g}: nothing was written; raise --max-drop to accept that, or export without "
                "--quantize."
            )
        # The error of a mean over few reviews grows with the root of how few they are.
        allowed = options.max_loss_rise * max(1.0, (ENOUGH / int8["reviews"]) ** 0.5)
        rise = int8["log_loss"] - fp32["log_loss"]
        if not round(rise, 6) <= allowed:
            raise GateError(
                f"int8 raises the log loss on {int8['reviews']} validation reviews by {rise:.4f} nats, from "
                f"{fp32['log_loss']:.4f} to {int8['log_loss']:.4f}, over {allowed:.3g}: nothing was written; raise "
                "--max-loss-rise to accept that, or export without --quantize."
            )

    def early_exit(self, int8: Sentiment) -> EarlyExit | None:
        return choose_early_exit(int8, self._validation)
