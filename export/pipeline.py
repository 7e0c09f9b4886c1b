"""export_run: turn a finished run into a bundle, step by step, if its graphs pass the gate.

The steps are the same for every task: write the fp32 graph and compare it with PyTorch; calibrate and write the edge
graph and compare it with fp32; choose the early exit, if the task has one; write the card and the manifest. Each task
has an Exporter for the parts that differ.
"""

from __future__ import annotations

import contextlib
import importlib
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..data.run_folder import METRICS, RECORD
from ..data.splits import fingerprint
from ..edge_graph.derived_graphs import add_graphs
from ..edge_graph.quantize import recipe_of
from ..edge_graph.schedule import Schedule
from ..edge_graph.targets import TARGETS, resolve_target
from ..edge_graph.write import write_edge
from ..errors import BundleError, DataError, GateError
from ..output import check_free, locked, staging
from ..runtime.behaviour import EarlyExit
from ..runtime.bundle import GRAPHS, MANIFEST, open_bundle, write_manifest
from ..tasks import TASKS
from ..tasks.card import render_card
from .exporter import Exporter, Figures
from .fp32 import quiet, write_fp32
from .options import ExportOptions

# The largest difference of logits allowed between PyTorch and the fp32 graph.
TOLERANCE = 1e-4


def export_run(
    task: str,
    source: Path,
    target: Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008 - it is frozen
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write the bundle of the run in ``source`` to ``target``, whole or not at all, and return ``target``.

    The reviews of the run are read again, from ``options.data`` or from the path that the run used. The graphs are
    measured on the held-out reviews, and int8 is calibrated on some training reviews. ``say`` is called with messages
    for a person.

    Raises GateError if a graph differs too much; BundleError if ``source`` isn't a finished run; OutputError,
    InputError, DataError, HubError, UsageError.
    """
    options.check()
    metrics, run_options = read_run(source, task)
    check_distilbert(source)
    with locked(target):
        check_free(target, options.overwrite, "bundle", MANIFEST)
        _export(exporter_of(task)(source, metrics), run_options, target, options, say)
    return target


def exporter_of(task: str) -> type[Exporter[Any]]:
    """The Exporter of a task.

    >>> exporter_of("sentiment").__name__
    'SentimentExporter'
    """
    module, _, name = TASKS[task].exporter.partition(":")
    kind: type[Exporter[Any]] = getattr(importlib.import_module(module), name)
    return kind


def _export(
    task: Exporter[Any], run_options: dict[str, Any], target: Path, options: ExportOptions, say: Callable[[str], None]
) -> None:
    cpu = resolve_target(options.target)
    # A run without labelled data has only scored texts.
    data = "data" if run_options["data"] is not None else "scored"
    run_options = {**run_options, data: options.data or run_options[data]}
    validation = task.read(run_options)
    if fingerprint(validation) != task.metrics["data"]["validation_fingerprint"]:
        raise DataError(
            f"The reviews in {run_options[data]} are not those that the run was trained on: give the same ones with "
            "--data."
        )
    if options.token_dropping is not None:
        task.reschedule(Schedule.parse(options.token_dropping))
    # Bundles are closed before the folder is renamed, which Windows refuses while a session maps the weights.
    with quiet(), staging(target) as folder, contextlib.ExitStack() as opened:
        figures: Figures = {}
        recipe: dict[str, Any] | None = None
        early_exit: EarlyExit | None = None

        def open_graph(precision: str, exact: bool = False) -> Any:
            return opened.enter_context(task.open(folder, precision, exact))

        def write_edge_json() -> None:
            behaviour = task.behaviour(folder)
            if early_exit is not None:
                behaviour["early_exit"] = vars(early_exit)
            write_manifest(
                folder,
                task=task.name,
                behaviour=behaviour,
                quantization=recipe,
                metrics=figures,
                versions=_versions(),
            )

        say("exporting the fp32 graph")
        write_fp32(task.source, folder, TASKS[task.name].pipeline_tag)
        # The figures are added later, because measuring them opens the bundle, which needs a manifest.
        write_edge_json()
        fp32 = open_graph("fp32")
        difference = task.difference(fp32)
        say(f"fp32 against PyTorch: logits differ by at most {difference:.1e}")
        if not difference <= TOLERANCE:
            raise GateError(
                f"The fp32 graph's logits differ from PyTorch's by {difference:.2e}, over {TOLERANCE:.0e}: nothing was "
                "written; try other versions of torch and optimum-onnx."
            )
        figures["validation_fp32"] = _lasting(task.measure(fp32))
        figures["fp32_max_difference"] = difference
        say(f"fp32 on {task.describe(figures['validation_fp32'])}")

        if options.quantize:
            say("quantizing to int8, for the edge")
            recipe = recipe_of(task.name, cpu)
            write_edge(
                task.source,
                folder / GRAPHS["int8"],
                task.name,
                mask_id=task.mask_id(fp32),
                bits=TARGETS[cpu],
                calibration=task.calibration(fp32),
                schedule=task.schedule,
            )
            add_graphs(folder, task.name)
            write_edge_json()
            if options.token_dropping is not None:
                task.recalibrate(open_graph("int8"))
                write_edge_json()
            int8 = open_graph("int8", exact=True)
            figures["validation_int8"] = _lasting(task.measure(int8))
            say(f"int8 on {task.describe(figures['validation_int8'])}")
            task.check_gate(figures["validation_fp32"], figures["validation_int8"], options)
            if task.schedule is not None:
                int8 = open_graph("int8")
                figures["validation_int8_token_dropping"] = _lasting(task.measure(int8))
                say(f"int8 with token dropping on {task.describe(figures['validation_int8_token_dropping'])}")
                task.check_gate(figures["validation_fp32"], figures["validation_int8_token_dropping"], options)
            early_exit = task.early_exit(int8)
            if early_exit is not None:
                write_edge_json()
                figures["validation_int8_early_exit"] = _lasting(task.measure(open_graph("int8")))
                say(
                    f"int8 with an early exit at {early_exit.length} tokens on "
                    f"{task.describe(figures['validation_int8_early_exit'])}"
                )

        opened.close()
        for split in ("validation", "test"):
            if split in task.metrics:
                figures[f"{split}_pytorch"] = _lasting(task.metrics[split])
        if options.no_fp32:
            (folder / GRAPHS["fp32"]).unlink()
        bundle = open_bundle(folder, task.name)
        graphs = {
            precision: (name, bundle.size(precision) / 2**20)
            for precision, name in GRAPHS.items()
            if (folder / name).exists()
        }
        card = render_card(task.metrics, {"figures": figures, "recipe": recipe, "graphs": graphs})
        (folder / "README.md").write_text(card, encoding="utf-8")
        write_edge_json()
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
    say(f"wrote {target} ({size:.1f} MiB)")


def read_run(source: Path, task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures and the options of a finished run of ``task``. Raises BundleError."""
    try:
        metrics = json.loads((source / METRICS).read_text(encoding="utf-8"))
        run = json.loads((source / RECORD).read_text(encoding="utf-8"))
    except OSError:
        hint = ""
        if source.with_name(f"{source.name}.partial").is_dir():
            hint = f" There is an unfinished one: `edge-imdb train {task} --resume` continues it."
        raise BundleError(
            f"There is no finished run in {source}: make one with `edge-imdb train {task}`, or name its parent folder "
            f"with --from.{hint}"
        ) from None
    except ValueError as error:
        raise BundleError(f"The run in {source} can't be read ({error}): train it again.") from None
    if metrics.get("task") != task:
        raise BundleError(f"{source} is a {metrics.get('task')} run, and a {task} run is needed: give another --from.")
    return metrics, run["hyperparameters"]


def check_distilbert(source: Path) -> None:
    """Raise BundleError if the model of a finished run is not a DistilBERT, the only one that the edge graph can be."""
    try:
        model_type = json.loads((source / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise BundleError(f"The config.json of {source} can't be read ({error}): train it again.") from None
    if model_type != "distilbert":
        raise BundleError(
            f"{source} is a run of the architecture {model_type}, and the int8 graph needs a DistilBERT: use the run "
            f"as a teacher, `edge-imdb distil {source} TEXTS… --output models/sentiment`."
        )


def _lasting(figures: Figures) -> Figures:
    """``figures`` without the speeds, which depend on the machine."""
    return {name: value for name, value in figures.items() if not name.endswith("_per_second")}


def _versions() -> dict[str, str]:
    """The versions of the packages that make a bundle."""
    names = ("onnx", "onnxruntime", "optimum", "torch", "transformers")
    return {"edge-imdb": __version__, **{name: version(name) for name in names}}
