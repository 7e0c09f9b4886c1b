"""write_card, write_fill_mask_card and publish_to_hub: the model card of a finished run, and its upload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import HubError
from ..options import RECORD


def write_card(folder: Path, metrics: dict[str, Any]) -> None:
    """Write README.md with the Hub's front matter from ``metrics.json``'s content."""
    options, data = metrics["hyperparameters"], metrics["data"]
    rows = []
    for name, label in (
        ("accuracy", "accuracy"),
        ("f1", "F1 (macro)"),
        ("log_loss", "log loss (nats)"),
        ("calibration_error", "calibration error"),
        ("calibration_error_uncalibrated", "calibration error before temperature scaling"),
    ):
        cells = [f"{metrics[split][name]:.4f}" if split in metrics else "–" for split in ("validation", "test")]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    table = "\n".join(rows)
    size = metrics["truncation"]
    folder.joinpath("README.md").write_text(
        f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-classification
base_model: {options["base"]}
datasets:
- {options["data"]}
metrics:
- accuracy
tags:
- edge-imdb
- distilbert
---

# {metrics["task"]} on {options["data"]}

DistilBERT fine-tuned by `edge-imdb train sentiment` from {options["base"]} to tell {", ".join(metrics["labels"])}.

## Data

{options["data"]}: {data["train"]} reviews to train, {data["validation"]} held out of train for validation,
{data["test"]} for test. {data["dropped_also_in_test"]} train reviews that also stand in the test split were dropped.
Reviews are cleaned of markup and entities; over {size["max_length"]} tokens one keeps its head
({size["head_ratio"]:.0%}) and its tail.

## Figures

| | validation | test |
|---|---|---|
{table}

Validation chose step {metrics["best_step"]} and the temperature, {metrics["temperature"]:.4f}; test was read once, at
the end. Divide the logits by the temperature before the softmax for calibrated scores.

![Loss and validation accuracy](curves.png)

{_settings_and_cost(metrics)}""",
        encoding="utf-8",
    )


def write_fill_mask_card(folder: Path, metrics: dict[str, Any]) -> None:
    """Write README.md with the Hub's front matter from ``metrics.json``'s content."""
    options, data, measured = metrics["hyperparameters"], metrics["data"], metrics["evaluation"]
    rows = []
    for name, label, factor in (
        ("perplexity", "perplexity", 1),
        ("top1", "top-1 (%)", 100),
        ("top5", "top-5 (%)", 100),
    ):
        cells = [
            f"{factor * metrics[split][name]:.2f}" if split in metrics else "–" for split in ("validation", "test")
        ]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    table = "\n".join(rows)
    epochs = "\n".join(
        f"| {row['epoch']:g} | "
        + " | ".join(
            f"{row[name]:.2f}" if name in row else "–" for name in ("validation_perplexity", "test_perplexity")
        )
        + " |"
        for row in metrics["epochs"]
    )
    extra = " (the split unsupervised among them)" if options["unsupervised"] else ""
    folder.joinpath("README.md").write_text(
        f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: fill-mask
base_model: {options["base"]}
datasets:
- {options["data"]}
metrics:
- perplexity
tags:
- edge-imdb
- distilbert
---

# fill-mask on {options["data"]}

DistilBERT adapted by `edge-imdb train fill-mask` from {options["base"]} to the language of its reviews, by masked
language modelling.

## Data

{options["data"]}: {data["train"]} texts to train on{extra}, {data["validation"]} held out of train for validation,
{data["test"]} for test. {data["dropped_also_in_test"]} texts that also stand in the test split were dropped. Cleaned of
markup and entities, joined and cut into {data["train_chunks"]} chunks of {options["chunk_length"]} tokens.

## Figures

On chunks of {measured["length"]} tokens, whole words masked once with a fixed seed,
{measured["mask_probability"]:.0%} of them, each by `[MASK]`. Perplexity is the exponential of the mean cross-entropy
over the masked tokens.

| | validation | test |
|---|---|---|
{table}

Perplexity after each epoch; validation chose step {metrics["best_step"]}, test chose nothing.

| epoch | validation | test |
|---|---|---|
{epochs}

![Loss and perplexity](curves.png)

{_settings_and_cost(metrics)}""",
        encoding="utf-8",
    )


def _settings_and_cost(metrics: dict[str, Any]) -> str:
    hardware, cost = metrics["hardware"], metrics["cost"]
    settings = "\n".join(f"| `{name}` | {value} |" for name, value in metrics["hyperparameters"].items())
    return f"""## Hyperparameters

| | |
|---|---|
{settings}

## Cost

{hardware["device"]} ({hardware["name"]}, {hardware["cpu_count"]} cores):
{cost["seconds"] / 60:.1f} minutes for {cost["train_tokens"]} tokens and all measurements, {cost["energy_kwh"]:.4f} kWh,
{cost["co2_kg"]:.4f} kg CO2 (estimated by codecarbon offline, electricity of {cost["country"]}).
"""


def publish_to_hub(folder: Path, repository: str) -> str:
    """Upload a finished run and return its address. Raises HubError; the folder stays as it is."""
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        address = api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, ignore_patterns=[RECORD], commit_message="Upload by edge-imdb"
        )
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise HubError(
            f"The upload to {repository} failed ({reason}); the run is whole in {folder}: log in with "
            "`hf auth login`, check the network, and upload it with `hf upload`."
        ) from error
    return str(address)
