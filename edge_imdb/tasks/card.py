"""render_card: the model card of a run or of a bundle made from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import TASKS

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Card:
    """The parts of a model card that a task writes. The functions get the content of the run's metrics.json.

    Arguments:
        metric: the main metric, by the Hub's name.
        made: how the model was made, as in "DistilBERT, fine-tuned by ...".
        rows: the figures of a run: key, title, factor and format.
        columns: the figures of a graph that export measured.
        fp32, int8, others: what the graphs take and give.
        example: the class and the text of the example in Python.
        data: sentences about the data.
        about: sentences that follow ``made``.
        before, after: paragraphs around the table of figures; ``after`` also gets the sentence about the test split.
    """

    metric: str
    made: str
    rows: Sequence[tuple[str, str, float, str]]
    columns: Sequence[str]
    fp32: str
    int8: str
    others: str
    example: tuple[str, str]
    data: Callable[[Metrics], list[str]]
    after: Callable[[Metrics, str], list[str]]
    about: Callable[[Metrics], str] = lambda metrics: ""
    before: Callable[[Metrics], list[str]] = lambda metrics: []


def render_card(metrics: Metrics, exported: dict[str, Any] | None = None) -> str:
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


def _source(metrics: Metrics, name: str) -> str:
    """The Hub's name of the base or the data sets, or else the folder's."""
    value = metrics["hyperparameters"][name]
    if value is None:
        return "texts that a teacher labelled"
    if isinstance(value, list):
        return ", ".join(value[:-1]) + f" and {value[-1]}"
    found = metrics.get("hub", {}).get(name, value)
    return str(found[0] if isinstance(found, list) else found)


def of_teacher(metrics: Metrics) -> bool:
    """Whether the labels of validation are those of a teacher, so that accuracy is the agreement with the teacher."""
    return metrics.get("reference") == "teacher"


def _titled(metrics: Metrics, title: str) -> str:
    """The title of a figure on validation."""
    return "agreement with the teacher" if title == "accuracy" and of_teacher(metrics) else title


def _front_matter(metrics: Metrics, onnx: bool) -> str:
    task = TASKS[metrics["task"]]
    lines = ["---", "license: apache-2.0", "library_name: transformers", f"pipeline_tag: {task.pipeline_tag}"]
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
    lines += [
        "metrics:",
        f"- {task.card.metric}",
        "tags:",
        "- edge-imdb",
        *(["- onnx"] if onnx else []),
        f"- {metrics.get('architecture', 'distilbert')}",
        "---",
    ]
    return "\n".join(lines)


def _about(metrics: Metrics) -> str:
    task = metrics["task"]
    card = TASKS[task].card
    architecture = metrics.get("architecture", "distilbert").replace("distilbert", "DistilBERT")
    return (
        f"{architecture}, {card.made} by `edge-imdb train {task}` from {_source(metrics, 'base')}.{card.about(metrics)}"
    )


def _data(metrics: Metrics) -> str:
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
    if of_teacher(metrics):
        lines.append(
            "No text has a label from a person: the model learns the teacher's scores, and every figure on validation "
            "is an agreement with the teacher."
        )
    if options.get("spans"):
        lines.append(f"It also reads a random span, of up to {options['spans']} tokens, of each longer review.")
    lines.append("Texts are cleaned of markup and entities.")
    lines += TASKS[metrics["task"]].card.data(metrics)
    return "\n".join(lines)


def _figures(metrics: Metrics) -> list[str]:
    card = TASKS[metrics["task"]].card
    splits = [split for split in ("validation", "test") if split in metrics]
    rows = [
        f"| {_titled(metrics, title)} | "
        + " | ".join(format(factor * metrics[split][name], form) for split in splits)
        + " |"
        for name, title, factor, form in card.rows
    ]
    if "test" in splits:
        read_once = "test was read once, at the end."
    elif metrics["data"]["test"]:
        read_once = "test was not measured (`--skip-test`)."
    else:
        read_once = "there was no test split."
    return [*card.before(metrics), table(["", *splits], rows), *card.after(metrics, read_once)]


def table(columns: Sequence[str], rows: Sequence[str]) -> str:
    """A table in Markdown, from the titles of its columns and its finished rows.

    >>> print(table(["", "test"], ["| accuracy | 0.9320 |"]))
    | | test |
    |---|---|
    | accuracy | 0.9320 |
    """
    header = "|" + "|".join(f" {column} " if column else " " for column in columns) + "|"
    return "\n".join([header, "|" + "---|" * len(columns), *rows])


def _hyperparameters(metrics: Metrics) -> str:
    rows = [f"| `{name}` | {value} |" for name, value in metrics["hyperparameters"].items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cost(metrics: Metrics) -> str:
    hardware, cost = metrics["hardware"], metrics["cost"]
    return (
        f"{hardware['device']} ({hardware['name']}, {hardware['cpu_count']} cores): {cost['seconds'] / 60:.1f} minutes "
        f"for {cost['train_tokens']} tokens and all measurements, {cost['energy_kwh']:.4f} kWh, {cost['co2_kg']:.4f} "
        f"kg CO2 (estimated by codecarbon offline, electricity of {cost['country']})."
    )


def _by_default(metrics: Metrics, figures: dict[str, Any]) -> list[str]:
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
    rows = [f"| {row['min_score']:g} | {row['coverage']:.1%} | {_accuracy_at(row)} |" for row in found["coverage"]]
    right = "as the teacher says" if of_teacher(metrics) else "right"
    parts.append(
        "With `min_score` a lower score is answered by `unsure`. On validation:\n\n"
        + "\n".join([f"| min_score | texts that get a label | {right} among them |", "|---|---|---|", *rows])
    )
    return parts


def _accuracy_at(row: dict[str, Any]) -> str:
    """The accuracy on the texts that reach a score, or "none" if no text reaches it."""
    # Bundles of earlier versions have an accuracy of 1 there.
    return f"{row['accuracy']:.2%}" if row["coverage"] and row["accuracy"] is not None else "none"


def _graphs(metrics: Metrics, exported: dict[str, Any]) -> list[str]:
    card, figures, recipe = TASKS[metrics["task"]].card, exported["figures"], exported["recipe"]
    parts = []
    if "fp32" in exported["graphs"]:
        parts.append(card.fp32)
    if "int8" in exported["graphs"]:
        parts.append(
            f"{card.int8} It is written for ONNX Runtime's CPU provider, and fastest with graph optimisations off."
        )
        parts.append(card.others)
    parts.append(
        "Measured by `edge-imdb export` on the validation reviews; the logits of the fp32 graph differ from PyTorch's "
        f"by at most {figures['fp32_max_difference']:.1e}."
    )
    columns = card.columns
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
    header = f"| | file | MiB | {' | '.join(_titled(metrics, column.replace('_', ' ')) for column in columns)} |"
    parts.append("\n".join([header, "|---|---|---|" + "---|" * len(columns), *rows]))
    parts += _by_default(metrics, figures)
    if recipe:
        parts.append(f"Quantization: `{json.dumps(recipe)}`.")
    name, example = card.example
    parts.append(f'```python\nfrom edge_imdb import {name}\n\n{name}("path/of/this/folder")("{example}")\n```')
    return parts
