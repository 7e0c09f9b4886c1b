"""FillMaskExporter: the steps of an export that are particular to a fill-mask run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from ..data.corpus import load_texts
from ..data.masking import EVALUATION_LENGTH, Vocabulary, evaluation_batches, join_chunks
from ..data.splits import sample
from ..errors import GateError
from ..runtime.options import RuntimeOptions
from ..tasks import TASKS
from ..tasks.fill_mask.figures import evaluate_fill_mask
from ..tasks.fill_mask.pipeline import MASK, TASK, FillMask
from .exporter import CALIBRATION, Exporter, Figures
from .options import ExportOptions

# The number of validation chunks whose logits are compared with PyTorch's.
COMPARED = 8


class FillMaskExporter(Exporter[FillMask]):
    name = TASK

    def read(self, options: dict[str, Any]) -> list[str]:
        texts = load_texts(options)
        self._train, self._validation = texts.train, texts.validation
        return texts.validation

    def open(self, folder: Path, precision: str, exact: bool = False) -> FillMask:
        model: FillMask = TASKS[self.name].open(RuntimeOptions(folder, provider="cpu", precision=precision))
        return model

    def behaviour(self, folder: Path) -> dict[str, Any]:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return {"truncation": {"strategy": "window", "max_length": config["max_position_embeddings"]}}

    @torch.no_grad()
    def difference(self, fp32: FillMask) -> float:
        model = AutoModelForMaskedLM.from_pretrained(self.source, attn_implementation="eager").float().eval()
        length = min(EVALUATION_LENGTH, model.config.max_position_embeddings)
        chunks = join_chunks(fp32.tokenizer, self._validation, length)[:COMPARED]
        mask = self.mask_id(fp32)
        largest = 0.0
        for ids, _ in evaluation_batches(chunks, Vocabulary.of(fp32.tokenizer), range(len(chunks)), 1):
            row = torch.from_numpy(ids).long()
            expected = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].numpy()
            chosen = expected[row[0].numpy() == mask]
            if len(chosen):
                largest = max(largest, float(np.abs(chosen - fp32.logits(ids[0])).max()))
        return largest

    def calibration(self, fp32: FillMask) -> list[Sequence[int]]:
        """Chunks of train with words masked in the same way as for measuring."""
        chosen = [self._train[i] for i in sample(self._train, CALIBRATION, seed=0)]
        chunks = join_chunks(fp32.tokenizer, chosen, min(EVALUATION_LENGTH, fp32.bundle.truncation.max_length))
        vocabulary = Vocabulary.of(fp32.tokenizer)
        batches = evaluation_batches(chunks, vocabulary, range(min(CALIBRATION, len(chunks))), 1)
        return [ids[0].tolist() for ids, _ in batches if (ids == vocabulary.mask_id).any()]

    def measure(self, model: FillMask) -> Figures:
        return evaluate_fill_mask(model, self._validation)

    def describe(self, figures: Figures) -> str:
        return (
            f"{figures['tokens']:.0f} masked tokens of the validation reviews: perplexity "
            f"{figures['perplexity']:.2f}, top-1 {100 * figures['top1']:.2f} %, top-5 {100 * figures['top5']:.2f} %"
        )

    def check_gate(self, fp32: Figures, int8: Figures, options: ExportOptions) -> None:
        rise = 100 * (int8["perplexity"] / fp32["perplexity"] - 1)
        # Rounded, so that exactly the limit passes in spite of rounding errors.
        if not round(rise, 6) <= options.max_rise:
            raise GateError(
                f"int8 raises perplexity on the validation reviews by {rise:.2f} %, from {fp32['perplexity']:.2f} to "
                f"{int8['perplexity']:.2f}, over {options.max_rise:g} %: nothing was written; raise --max-rise to "
                "accept that, or export without --quantize."
            )

    def mask_id(self, fp32: FillMask) -> int | None:
        return int(fp32.tokenizer.token_to_id(MASK))
