"""add_graphs: the further int8 graphs of a bundle, made of its edge graph, on the same weights.

An older bundle gets them without being exported again: python -m edge_imdb.edge_graph.derived_graphs FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import onnx

from ..runtime.bundle import GRAPHS, MANIFEST, MORE_GRAPHS, WEIGHTS, open_bundle, seal, sha256
from ..tasks import TASKS
from ..tasks.task import CLASSIFIER
from .batch import write_batch
from .subsets import write_subsets

# With it transformers.js opens the bundle with no options: model_quantized.onnx, its weights in a file beside it.
_CONFIG = "config.json"
_TRANSFORMERS_JS = {"dtype": "q8", "use_external_data_format": True}


def add_graphs(folder: Path, task: str) -> None:
    """Write the further int8 graphs beside the edge graph of ``task`` in ``folder``; no weight changes.

    The weights' file gets the name that transformers.js looks for. The manifest is the caller's to write. Raises
    GateError where the edge graph is none of ours.
    """
    edge = folder / GRAPHS["int8"]
    _rename_weights(edge, folder / WEIGHTS)
    write_batch(edge, folder / MORE_GRAPHS["batch"])
    if TASKS[task].head == CLASSIFIER:
        write_subsets(edge, folder / MORE_GRAPHS["explain"])
    path = folder / _CONFIG
    config = {**json.loads(path.read_text(encoding="utf-8")), "transformers.js_config": _TRANSFORMERS_JS}
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _rename_weights(edge: Path, target: Path) -> None:
    model = onnx.load(edge, load_external_data=False)
    external = [tensor for tensor in model.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]
    places = [entry for tensor in external for entry in tensor.external_data if entry.key == "location"]
    for name in {entry.value for entry in places} - {target.name}:
        edge.with_name(name).replace(target)
    for entry in places:
        entry.value = target.name
    onnx.save(model, edge)


def upgrade(folder: Path) -> None:
    """Give the bundle in ``folder`` the further graphs, and list them in its manifest.

    Raises BundleError, GateError.
    """
    path = folder / MANIFEST
    record = json.loads(path.read_text(encoding="utf-8"))
    bundle = open_bundle(folder, record["task"])
    bundle.graph("int8")
    add_graphs(folder, bundle.task)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != path)
    record["graphs"] = {name: file for name, file in {**GRAPHS, **MORE_GRAPHS}.items() if file in names}
    record["files"] = {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256(folder / n)} for n in names}
    path.write_text(json.dumps({**record, "sha256": seal(record)}, indent=2) + "\n", encoding="utf-8")
    open_bundle(folder, bundle.task)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        upgrade(Path(argument))
