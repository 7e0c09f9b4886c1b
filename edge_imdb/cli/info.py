"""info: versions, execution providers, and the bundle that each task uses."""

from __future__ import annotations

import json
import platform
from typing import Any

import click

from .. import __version__
from ..errors import EdgeImdbError, MissingDependencyError
from ..runtime.bundle import find_bundle, open_bundle
from ..tasks import TASKS

# True of the embedded bundles. The manifest of another bundle has no language.
LANGUAGE = "English"
MADE_FOR = "made for English film reviews: it makes more mistakes on other kinds of text and in other languages"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def info(as_json: bool) -> None:
    """Show versions, execution providers, and which bundle each task uses and why.

    A command uses the bundle given with --model; without it, $EDGE_IMDB_MODELS/TASK if that variable is set, then
    ./models/TASK if it exists, then the embedded bundle.
    """
    from ..runtime.session import available_providers, choose_provider, runtime, usable_cores

    record: dict[str, Any] = {"edge-imdb": __version__, "python": platform.python_version()}
    try:
        record["onnxruntime"] = runtime().__version__
        record["providers"] = available_providers()
        record["auto"] = choose_provider("auto")
    except MissingDependencyError as error:
        record["onnxruntime"] = str(error)
    record["threads"] = usable_cores()
    record["bundles"] = {}
    for task in TASKS:
        path, why = find_bundle(task, local=True)
        entry: dict[str, Any] = {"path": str(path), "why": why}
        try:
            bundle = open_bundle(path, task)
            if bundle.labels:
                entry["labels"] = bundle.labels
            entry["bytes"] = sum(file["bytes"] for file in bundle.files.values())
            entry["graphs"] = sorted(bundle.graphs)
            entry["max_length"] = bundle.truncation.max_length
            entry["early_exit"] = bundle.early_exit and bundle.early_exit.length
            entry["token_dropping"] = bundle.token_dropping
            entry["language"] = LANGUAGE if why == "embedded" else None
            entry["quantization"] = bundle.quantization
            entry["metrics"] = bundle.metrics
            entry["reads"] = TASKS[task].reads(bundle)
        except EdgeImdbError as error:
            entry["error"] = str(error)
        record["bundles"][task] = entry
    if as_json:
        click.echo(json.dumps(record))
        return
    click.echo(f"edge-imdb {__version__}, Python {record['python']}")
    if "providers" in record:
        click.echo(
            f"ONNX Runtime {record['onnxruntime']}: {', '.join(record['providers'])}; auto takes {record['auto']}"
        )
    else:
        click.echo(record["onnxruntime"])
    if record["threads"]:
        click.echo(f"threads for one text: {record['threads']}, the physical cores that this process may use")
    for task, entry in record["bundles"].items():
        click.echo(f"{task}: {entry['path']} ({entry['why']})")
        if "error" in entry:
            click.echo(f"  {entry['error']}")
            continue
        labels = f"labels {', '.join(entry['labels'])}; " if "labels" in entry else ""
        click.echo(f"  {labels}{entry['bytes'] / 2**20:.1f} MiB; {', '.join(entry['graphs'])}")
        click.echo(f"  reads {entry['reads']}")
        if entry["language"]:
            click.echo(f"  {MADE_FOR}")
        for name, value in entry["metrics"].items():
            pairs = value.items() if isinstance(value, dict) else [("", value)]
            # Figures by group and by score are left to --json and to the card.
            pairs = [(k, v) for k, v in pairs if isinstance(v, (int, float))]
            shown = ", ".join(f"{k} {v:.4g}".strip() if v < 1e4 else f"{k} {v:.0f}" for k, v in pairs)
            click.echo(f"  {name}: {shown}")
