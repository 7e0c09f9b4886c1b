"""export_sentiment: a finished run becomes a bundle, if its graphs pass the gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification

from ..bundle import GRAPHS, MANIFEST, FirstReading, write_manifest
from ..corpus import load_corpus
from ..defaults import TARGETS
from ..errors import GateError, UsageError
from ..evaluation import evaluate_sentiment
from ..output import check_free, locked, staging
from ..sentiment import TASK, Sentiment
from ..splits import sample
from .card import write_bundle_card
from .edge import recipe_of, resolve_target, write_edge
from .first_reading import choose_first_reading
from .steps import CALIBRATION, check_difference, check_reviews, lasting, quiet, read_run, size_of, versions, write_fp32

# So many validation reviews are compared logit by logit.
COMPARED = 64


def export_sentiment(
    source: Path,
    target: Path,
    *,
    quantize: bool = False,
    max_drop: float = 0.5,
    target_cpu: str = "portable",
    data: str | None = None,
    keep_fp32: bool = True,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the bundle of the run in ``source`` to ``target``, whole or not at all.

    ``max_drop`` is in points of accuracy, from 0 to 100, on the validation reviews that the run held out. They are
    read again from ``data``, by default from where the run had them, and so are the train reviews that calibrate int8.
    ``target_cpu`` is one of ``defaults.TARGETS`` or ``auto``.

    Raises GateError where a graph differs too much; BundleError where ``source`` is no finished run; OutputError,
    InputError, DataError, HubError, UsageError.
    """
    if not 0 <= max_drop <= 100:
        raise UsageError(f"--max-drop is {max_drop}: it must lie between 0 and 100 points.")
    metrics, options = read_run(source, TASK)
    with locked(target):
        check_free(target, overwrite, "bundle", MANIFEST)
        options["data"] = data or options["data"]
        target_cpu = resolve_target(target_cpu)
        corpus = load_corpus(options)
        validation = corpus.validation
        check_reviews(validation.texts, metrics["data"]["validation_fingerprint"], options["data"])
        with quiet(), staging(target) as folder:
            say("exporting the fp32 graph")
            write_fp32(source, folder, "text-classification")
            recipe = None
            first_reading: FirstReading | None = None

            def write(figures: dict[str, Any]) -> None:
                write_manifest(
                    folder,
                    task=TASK,
                    behaviour={
                        "labels": metrics["labels"],
                        "truncation": metrics["truncation"],
                        "calibration": {"method": "temperature", "temperature": metrics["temperature"]},
                        "first_reading": None if first_reading is None else asdict(first_reading),
                    },
                    quantization=recipe,
                    metrics=figures,
                    versions=versions(),
                )

            # Without figures at first: they are measured by the runtime, through the bundle.
            write({})
            fp32 = Sentiment(folder, provider="cpu", precision="fp32")
            difference = _largest_difference(source, fp32, validation.texts[:COMPARED])
            check_difference(difference, say)
            figures: dict[str, Any] = {
                "validation_fp32": lasting(evaluate_sentiment(fp32, validation)),
                "fp32_max_difference": difference,
            }
            say(_line("fp32", figures["validation_fp32"]))
            if quantize:
                say("quantizing to int8, for the edge")
                recipe = recipe_of(TASK, target_cpu)
                reviews = [corpus.train.texts[i] for i in sample(corpus.train.texts, CALIBRATION, seed=0)]
                calibration = [fp32.encode(text) for text in reviews]
                write_edge(source, folder / GRAPHS["int8"], TASK, bits=TARGETS[target_cpu], calibration=calibration)
                write({})
                int8 = Sentiment(folder, provider="cpu", precision="int8")
                figures["validation_int8"] = lasting(evaluate_sentiment(int8, validation))
                say(_line("int8", figures["validation_int8"]))
                _hold(figures, max_drop)
                first_reading = choose_first_reading(int8, validation)
                if first_reading is not None:
                    write({})
                    early = evaluate_sentiment(Sentiment(folder, provider="cpu", precision="int8"), validation)
                    figures["validation_int8_first_reading"] = lasting(early)
                    say(_line(f"int8 with a first reading of {first_reading.length} tokens", early))
            if "test" in metrics:
                figures["test_pytorch"] = metrics["test"]
            if not keep_fp32:
                (folder / GRAPHS["fp32"]).unlink()
            write_bundle_card(source / "README.md", folder, TASK, figures, recipe)
            write(figures)
            size = size_of(folder)
    say(f"wrote {target} ({size:.1f} MiB)")
    return target


def _hold(figures: dict[str, Any], max_drop: float) -> None:
    """Raise GateError where int8 loses more than ``max_drop`` points of accuracy."""
    drop = 100 * (figures["validation_fp32"]["accuracy"] - figures["validation_int8"]["accuracy"])
    # Rounded, for a drop of just the limit must pass whatever the last bit says.
    if round(drop, 6) > max_drop:
        raise GateError(
            f"int8 loses {drop:.2f} points of accuracy on {figures['validation_int8']['reviews']} validation reviews, "
            f"over {max_drop:g}: nothing was written; raise --max-drop to accept that, or export without --quantize."
        )


@torch.no_grad()
def _largest_difference(source: Path, fp32: Sentiment, texts: list[str]) -> float:
    model = AutoModelForSequenceClassification.from_pretrained(source, attn_implementation="eager").eval()
    largest = 0.0
    for text in texts:
        ids = torch.tensor([fp32.encode(text)])
        expected = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].numpy()
        largest = max(largest, float(np.abs(expected - fp32.logits(text)).max()))
    return largest


def _line(name: str, figures: dict[str, float]) -> str:
    return (
        f"{name} on {figures['reviews']} validation reviews: accuracy {100 * figures['accuracy']:.2f} %, "
        f"log loss {figures['log_loss']:.4f}"
    )
