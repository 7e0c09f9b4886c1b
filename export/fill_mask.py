"""export_fill_mask: a finished run becomes a bundle, if its graphs pass the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForMaskedLM

from ..bundle import GRAPHS, MANIFEST, write_manifest
from ..corpus import load_texts
from ..defaults import TARGETS
from ..errors import GateError, UsageError
from ..evaluation import evaluate_fill_mask
from ..fill_mask import TASK, FillMask
from ..masking import EVALUATION_LENGTH, Vocabulary, evaluation_batches, join_chunks
from ..output import check_free, locked, staging
from ..splits import sample
from .card import write_bundle_card
from .edge import recipe_of, resolve_target, write_edge
from .steps import CALIBRATION, check_difference, check_reviews, lasting, quiet, read_run, size_of, versions, write_fp32

# So many validation chunks are compared logit by logit.
COMPARED = 8


def export_fill_mask(
    source: Path,
    target: Path,
    *,
    quantize: bool = False,
    max_rise: float = 3.0,
    target_cpu: str = "portable",
    data: str | None = None,
    keep_fp32: bool = True,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the bundle of the run in ``source`` to ``target``, whole or not at all.

    ``max_rise`` is in per cent of perplexity, on the validation reviews that the run held out. They are read again
    from ``data``, by default from where the run had them, and so are the train reviews that calibrate int8.
    ``target_cpu`` is one of ``defaults.TARGETS`` or ``auto``.

    Raises GateError where a graph differs too much; BundleError where ``source`` is no finished run; OutputError,
    InputError, DataError, HubError, UsageError.
    """
    if not 0 <= max_rise < float("inf"):
        raise UsageError(f"--max-rise is {max_rise}: it must be 0 per cent or more.")
    metrics, options = read_run(source, TASK)
    with locked(target):
        check_free(target, overwrite, "bundle", MANIFEST)
        options["data"] = data or options["data"]
        target_cpu = resolve_target(target_cpu)
        texts = load_texts(options)
        validation = texts.validation
        check_reviews(validation, metrics["data"]["validation_fingerprint"], options["data"])
        with quiet(), staging(target) as folder:
            say("exporting the fp32 graph")
            write_fp32(source, folder, "fill-mask")
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            recipe = None

            def write(figures: dict[str, Any]) -> None:
                write_manifest(
                    folder,
                    task=TASK,
                    behaviour={"truncation": {"strategy": "window", "max_length": config["max_position_embeddings"]}},
                    quantization=recipe,
                    metrics=figures,
                    versions=versions(),
                )

            # Without figures at first: they are measured by the runtime, through the bundle.
            write({})
            fp32 = FillMask(folder, provider="cpu", precision="fp32")
            difference = _largest_difference(source, fp32, validation)
            check_difference(difference, say)
            figures: dict[str, Any] = {
                "validation_fp32": lasting(evaluate_fill_mask(fp32, validation)),
                "fp32_max_difference": difference,
            }
            say(_line("fp32", figures["validation_fp32"]))
            if quantize:
                say("quantizing to int8, for the edge")
                mask_id = fp32.tokenizer.token_to_id("[MASK]")
                recipe = recipe_of(TASK, target_cpu)
                write_edge(
                    source,
                    folder / GRAPHS["int8"],
                    TASK,
                    mask_id=mask_id,
                    bits=TARGETS[target_cpu],
                    calibration=_calibration(fp32, texts.train),
                )
                write({})
                int8 = FillMask(folder, provider="cpu", precision="int8")
                figures["validation_int8"] = lasting(evaluate_fill_mask(int8, validation))
                say(_line("int8", figures["validation_int8"]))
                _hold(figures, max_rise)
            if "test" in metrics:
                figures["test_pytorch"] = metrics["test"]
            if not keep_fp32:
                (folder / GRAPHS["fp32"]).unlink()
            write_bundle_card(source / "README.md", folder, TASK, figures, recipe)
            write(figures)
            size = size_of(folder)
    say(f"wrote {target} ({size:.1f} MiB)")
    return target


def _calibration(fp32: FillMask, texts: list[str]) -> list[list[int]]:
    """Chunks of train with words masked, as the model is measured."""
    chosen = [texts[i] for i in sample(texts, CALIBRATION, seed=0)]
    chunks = join_chunks(fp32.tokenizer, chosen, min(EVALUATION_LENGTH, fp32.bundle.truncation.max_length))
    vocabulary = Vocabulary.of(fp32.tokenizer)
    batches = evaluation_batches(chunks, vocabulary, range(min(CALIBRATION, len(chunks))), 1)
    return [ids[0].tolist() for ids, _ in batches if (ids == vocabulary.mask_id).any()]


def _hold(figures: dict[str, Any], max_rise: float) -> None:
    """Raise GateError where int8 raises perplexity by more than ``max_rise`` per cent."""
    fp32, int8 = (figures[f"validation_{precision}"]["perplexity"] for precision in ("fp32", "int8"))
    rise = 100 * (int8 / fp32 - 1)
    # Rounded, for a rise of just the limit must pass whatever the last bit says.
    if not round(rise, 6) <= max_rise:
        raise GateError(
            f"int8 raises perplexity on the validation reviews by {rise:.2f} %, from {fp32:.2f} to {int8:.2f}, over "
            f"{max_rise:g} %: nothing was written; raise --max-rise to accept that, or export without --quantize."
        )


@torch.no_grad()
def _largest_difference(source: Path, fp32: FillMask, texts: list[str]) -> float:
    model = AutoModelForMaskedLM.from_pretrained(source, attn_implementation="eager").float().eval()
    length = min(EVALUATION_LENGTH, model.config.max_position_embeddings)
    chunks = join_chunks(fp32.tokenizer, texts, length)[:COMPARED]
    largest = 0.0
    for ids, _ in evaluation_batches(chunks, Vocabulary.of(fp32.tokenizer), range(len(chunks)), 1):
        row = torch.from_numpy(ids).long()
        expected = model(input_ids=row, attention_mask=torch.ones_like(row)).logits[0].numpy()
        chosen = expected[row[0].numpy() == fp32.tokenizer.token_to_id("[MASK]")]
        if len(chosen):
            largest = max(largest, float(np.abs(chosen - fp32.logits(ids[0])).max()))
    return largest


def _line(name: str, figures: dict[str, float]) -> str:
    return (
        f"{name} on {figures['tokens']:.0f} masked tokens of the validation reviews: perplexity "
        f"{figures['perplexity']:.2f}, top-1 {100 * figures['top1']:.2f} %, top-5 {100 * figures['top5']:.2f} %"
    )
