"""add_graphs and upgrade: the further int8 graphs of a bundle, derived from its edge graph, with the same weights.

A bundle of an older version gets them without a new export, and no weight changes:

    python -m edge_imdb.edge_graph.derived_graphs FOLDER...
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

# With this entry in config.json, transformers.js opens model_quantized.onnx and the file with its weights by itself.
_CONFIG = "config.json"
_TRANSFORMERS_JS = {"dtype": "q8", "use_external_data_format": True}


def add_graphs(folder: Path, task: str) -> None:
    """Write the further int8 graphs beside the edge graph of ``task`` in ``folder``. No weight changes.

    The file with the weights gets the name that transformers.js looks for. The caller has to write the manifest. Raises
    GateError if ``write_edge`` did not make the edge graph.
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
    locations = [entry for tensor in external for entry in tensor.external_data if entry.key == "location"]
    names = {entry.value for entry in locations} - {target.name}
    if not names:
        return
    for name in names:
        edge.with_name(name).replace(target)
    for entry in locations:
        entry.value = target.name
    onnx.save(model, edge)


def upgrade(folder: Path) -> None:
    """Write the further graphs of the bundle in ``folder`` again, and list them in its manifest.

    Graphs of an older version that end in .onnx are renamed, as are their names in the model card. Raises BundleError
    or GateError.
    """
    path = folder / MANIFEST
    record = json.loads(path.read_text(encoding="utf-8"))
    bundle = open_bundle(folder, record["task"])
    for name in bundle.files:
        bundle.file(name)
    bundle.graph("int8")
    known = {**GRAPHS, **MORE_GRAPHS}
    for name, file in bundle.graphs.items():
        if file != known[name]:
            (folder / file).replace(folder / known[name])
            card = folder / "README.md"
            card.write_text(card.read_text(encoding="utf-8").replace(file, known[name]), encoding="utf-8")
    add_graphs(folder, bundle.task)
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p != path)
    record["graphs"] = {name: file for name, file in known.items() if file in names}
    record["files"] = {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256(folder / n)} for n in names}
    path.write_text(json.dumps({**record, "sha256": seal(record)}, indent=2) + "\n", encoding="utf-8")
    open_bundle(folder, bundle.task)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        upgrade(Path(argument))
