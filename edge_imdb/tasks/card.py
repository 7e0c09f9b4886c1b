"""render_card: the model card of a run or of a bundle made from it."""

from __future__ import annotations

import json
from typing import Any

# For each task: its pipeline on the Hub, its main metric, how the model was made, and how to call it.
_KINDS = {
    "sentiment": ("text-classification", "accuracy", "fine-tuned", ("Sentiment", "great film")),
    "fill-mask": ("fill-mask", "perplexity", "adapted by masked language modelling", ("FillMask", "A great [MASK]!")),
}
# The figures of a run: key, name of the row, factor, format.
_FIGURES = {
    "sentiment": (
        ("accuracy", "accuracy", 1, ".4f"),
        ("f1", "F1 (macro)", 1, ".4f"),
        ("log_loss", "log loss (nats)", 1, ".4f"),
        ("calibration_error", "calibration error", 1, ".4f"),
        ("calibration_error_uncalibrated", "calibration error before temperature scaling", 1, ".4f"),
    ),
    "fill-mask": (
        ("perplexity", "perplexity", 1, ".2f"),
        ("top1", "top-1 (%)", 100, ".2f"),
        ("top5", "top-5 (%)", 100, ".2f"),
    ),
}
# The figures of a graph, measured by export.
_COLUMNS = {"sentiment": ("accuracy", "log_loss"), "fill-mask": ("perplexity", "top1", "top5")}
_STANDARD = {
    "sentiment": "The fp32 graph takes `input_ids` and `attention_mask`, any batch and length, and gives "
    "`logits (batch, labels)`.",
    "fill-mask": "The fp32 graph takes `input_ids` and `attention_mask`, any batch and length, and gives "
    "`logits (batch, length, vocabulary)`.",
}
_EDGE = {
    "sentiment": "The int8 graph is for the edge: its only input is `input_ids`, one text without padding, and it "
    "gives `logits (1, labels)`.",
    "fill-mask": "The int8 graph is for the edge: its only input is `input_ids`, one text without padding, and it "
    "gives `logits (masks, vocabulary)`, for the `[MASK]` positions only.",
}

_MORE = {
    "sentiment": "On the same weights, `onnx/model_quantized.onnx` takes batches with an attention mask, for optimum "
    "and transformers.js, and `onnx/model_explain.onnx` also says which words decided.",
    "fill-mask": "On the same weights, `onnx/model_quantized.onnx` takes batches with an attention mask, for optimum "
    "and transformers.js.",
}


def render_card(metrics: dict[str, Any], exported: dict[str, Any] | None = None) -> str:
    """The card of a run from the content of its metrics.json, with the Hub's front matter.

    With ``exported`` it is the card of a bundle. ``exported`` has ``figures`` and ``recipe`` as in edge.json, and
    ``graphs``: for each graph of the bundle its name and its size in MiB.
    """
    task = metrics["task"]
    parts = [
        _front_matter(metrics, onnx=exported is not None),
        f"# {task}, from {_source(metrics, 'base')} on {_source(metrics, 'data')}",
        _about(metrics),
        "## Data",
        _data(metrics),
        "## Figures",
        *_figures(metrics),
    ]
    if exported is None:
        parts.append("![Loss and validation figures over the steps](curves.png)")
    parts += ["## Hyperparameters", _hyperparameters(metrics), "## Cost", _cost(metrics)]
    if exported is not None:
        parts += ["## ONNX graphs", *_graphs(metrics, exported)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _source(metrics: dict[str, Any], name: str) -> str:
    """The Hub's name of the base or the data sets, or else the folder's."""
    value = metrics["hyperparameters"][name]
    if isinstance(value, list):
        return ", ".join(value[:-1]) + f" and {value[-1]}"
    found = metrics.get("hub", {}).get(name, value)
    return str(found[0] if isinstance(found, list) else found)


def _front_matter(metrics: dict[str, Any], onnx: bool) -> str:
    pipeline, metric, _, _ = _KINDS[metrics["task"]]
    lines = ["---", "license: apache-2.0", "library_name: transformers", f"pipeline_tag: {pipeline}"]
    # Only names on the Hub, because a local folder's name would be a broken link there.
    hub = metrics.get("hub", {})
    if "base" in hub:
        lines.append(f"base_model: {hub['base']}")
    if "data" in hub:
        # A run from before mixtures has one name.
        lines += [
            "datasets:",
            *(f"- {name}" for name in ([hub["data"]] if isinstance(hub["data"], str) else hub["data"])),
        ]
    lines += ["metrics:", f"- {metric}", "tags:", "- edge-imdb", *(["- onnx"] if onnx else []), "- distilbert", "---"]
    return "\n".join(lines)


def _about(metrics: dict[str, Any]) -> str:
    task = metrics["task"]
    text = f"DistilBERT, {_KINDS[task][2]} by `edge-imdb train {task}` from {_source(metrics, 'base')}."
    if task == "sentiment":
        text += f" Its labels: {', '.join(metrics['labels'])}."
    return text


def _data(metrics: dict[str, Any]) -> str:
    options, data = metrics["hyperparameters"], metrics["data"]
    parts = [f"{data['train']} texts of {_source(metrics, 'data')} to train on"]
    if options.get("unsupervised"):
        parts[0] += " (its split `unsupervised` among them)"
    parts.append(f"{data['validation']} held out of training for validation")
    if data["test"]:
        parts.append(f"{data['test']} for test")
    lines = [", ".join(parts) + "."]
    if data["test"]:
        lines.append(f"{data['dropped_also_in_test']} training texts that are also in the test split were dropped.")
    if data.get("left_out"):
        lines.append(f"{data['left_out']} texts named by `--leave-out` were not trained on.")
    if "train_by_source" in data:
        counts = ", ".join(f"{rows} of {name}" for name, rows in data["train_by_source"].items())
        lines.append(f"An epoch reads {counts}.")
    if data.get("scored"):
        lines.append(
            f"It also reads {data['scored']} texts that other models labelled, and learns the mean of their scores "
            "(`--scored`)."
        )
    if options.get("spans"):
        lines.append(f"It also reads a random span, of up to {options['spans']} tokens, of each longer review.")
    lines.append("Texts are cleaned of markup and entities.")
    if metrics["task"] == "sentiment":
        size = metrics["truncation"]
        lines.append(
            f"A review of over {size['max_length']} tokens keeps its head ({size['head_ratio']:.0%} of them) and its "
            "tail."
        )
        if kept := metrics.get("token_dropping"):
            trained = metrics.get("token_dropping_trained", kept)
            said = "The model was trained to drop tokens"
            if trained != kept:
                how = "with another schedule of token dropping" if trained else "with all tokens"
                said = f"The model was trained {how}, as the next table measures it; its int8 graph drops tokens"
            shares = ", ".join(f"{share:.0%}" for share in kept)
            lines.append(f"{said}: after the layers it keeps {shares} of them, those that receive most attention.")
    else:
        lines.append(f"They are joined and cut into {data['train_chunks']} chunks of {options['chunk_length']} tokens.")
    return "\n".join(lines)


def _figures(metrics: dict[str, Any]) -> list[str]:
    task = metrics["task"]
    splits = [split for split in ("validation", "test") if split in metrics]
    parts = []
    if task == "fill-mask":
        measured = metrics["evaluation"]
        parts.append(
            f"Measured on chunks of {measured['length']} tokens, of which {measured['mask_probability']:.0%} of the "
            "words are masked, once and with a fixed seed, each by `[MASK]`. Perplexity is the exponential of the mean "
            "cross-entropy over the masked tokens."
        )
    rows = [
        f"| {label} | " + " | ".join(format(factor * metrics[split][name], form) for split in splits) + " |"
        for name, label, factor, form in _FIGURES[task]
    ]
    parts.append("\n".join([f"| | {' | '.join(splits)} |", "|---|" + "---|" * len(splits), *rows]))
    if "test" in splits:
        read_once = "test was read once, at the end."
    elif metrics["data"]["test"]:
        read_once = "test was not measured (`--skip-test`)."
    else:
        read_once = "there was no test split."
    if task == "sentiment":
        parts.append(
            f"Validation chose step {metrics['best_step']} and the temperature, {metrics['temperature']:.4f}; "
            f"{read_once} Divide the logits by the temperature before the softmax for calibrated scores."
        )
        if groups := metrics.get("validation_by_source"):
            rows = [
                f"| {name} | {group['accuracy']:.4f} | {group['log_loss']:.4f} | {group['calibration_error']:.4f} |"
                for name, group in groups.items()
            ]
            parts.append(
                "\n".join(["| validation of | accuracy | log loss | calibration error |", "|---|---|---|---|", *rows])
            )
    else:
        parts.append(f"Validation chose step {metrics['best_step']}; {read_once}")
        columns = [name for name in ("validation", "sentence_starts") if f"{name}_perplexity" in metrics["epochs"][0]]
        rows = [
            f"| {row['epoch']:g} | " + " | ".join(f"{row[f'{name}_perplexity']:.2f}" for name in columns) + " |"
            for row in metrics["epochs"]
        ]
        titles = {"validation": "validation perplexity", "sentence_starts": "on chunks that begin with a sentence"}
        header = f"| epoch | {' | '.join(titles[name] for name in columns)} |"
        parts.append("\n".join([header, "|---|" + "---|" * len(columns), *rows]))
    return parts


def _hyperparameters(metrics: dict[str, Any]) -> str:
    rows = [f"| `{name}` | {value} |" for name, value in metrics["hyperparameters"].items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cost(metrics: dict[str, Any]) -> str:
    hardware, cost = metrics["hardware"], metrics["cost"]
    return (
        f"{hardware['device']} ({hardware['name']}, {hardware['cpu_count']} cores): {cost['seconds'] / 60:.1f} minutes "
        f"for {cost['train_tokens']} tokens and all measurements, {cost['energy_kwh']:.4f} kWh, {cost['co2_kg']:.4f} "
        f"kg CO2 (estimated by codecarbon offline, electricity of {cost['country']})."
    )


def _by_default(figures: dict[str, Any]) -> list[str]:
    """What the int8 graph of a sentiment bundle does by default on validation: by data set, and by least score."""
    names = ("validation_int8_early_exit", "validation_int8_token_dropping", "validation_int8")
    found = next((figures[name] for name in names if "coverage" in figures.get(name, {})), None)
    if found is None:
        return []
    parts = []
    if groups := found.get("groups"):
        rows = [
            f"| {name} | {group['reviews']} | {group['accuracy']:.4f} | {group['calibration_error']:.4f} |"
            for name, group in groups.items()
        ]
        header = "| int8, validation of | texts | accuracy | calibration error |"
        parts.append("\n".join([header, "|---|---|---|---|", *rows]))
    rows = [f"| {row['min_score']:g} | {row['coverage']:.1%} | {row['accuracy']:.2%} |" for row in found["coverage"]]
    parts.append(
        "With `min_score` a lower score is answered by `unsure`. On validation:\n\n"
        + "\n".join(["| min_score | texts that get a label | right among them |", "|---|---|---|", *rows])
    )
    return parts


def _graphs(metrics: dict[str, Any], exported: dict[str, Any]) -> list[str]:
    task, figures, recipe = metrics["task"], exported["figures"], exported["recipe"]
    parts = []
    if "fp32" in exported["graphs"]:
        parts.append(_STANDARD[task])
    if "int8" in exported["graphs"]:
        parts.append(
            f"{_EDGE[task]} It is written for ONNX Runtime's CPU provider, and fastest with graph optimisations off."
        )
        parts.append(_MORE[task])
    parts.append(
        "Measured by `edge-imdb export` on the validation reviews; the logits of the fp32 graph differ from PyTorch's "
        f"by at most {figures['fp32_max_difference']:.1e}."
    )
    columns = _COLUMNS[task]
    rows = [
        f"| {precision} | `{name}` | {mib:.1f} | "
        + " | ".join(f"{figures[f'validation_{precision}'][column]:.4f}" for column in columns)
        + " |"
        for precision, (name, mib) in exported["graphs"].items()
    ]
    # What the int8 graph does by default, each on top of the one before; the row int8 is with all the work done.
    for name, title in (("token_dropping", "int8, token dropping"), ("early_exit", "int8, early exit")):
        if found := figures.get(f"validation_int8_{name}"):
            rows.append(f"| {title} | | | " + " | ".join(f"{found[column]:.4f}" for column in columns) + " |")
    header = f"| | file | MiB | {' | '.join(column.replace('_', ' ') for column in columns)} |"
    parts.append("\n".join([header, "|---|---|---|" + "---|" * len(columns), *rows]))
    parts += _by_default(figures)
    if recipe:
        parts.append(f"Quantization: `{json.dumps(recipe)}`.")
    name, example = _KINDS[task][3]
    parts.append(f'```python\nfrom edge_imdb import {name}\n\n{name}("path/of/this/folder")("{example}")\n```')
    return parts
