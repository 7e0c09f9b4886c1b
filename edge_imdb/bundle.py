"""Bundle, find_bundle, open_bundle, write_manifest: the one place that knows the format of edge.json."""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .errors import BundleError
from .graphs import check_external_data
from .text import Truncation

FORMAT = 1
MANIFEST = "edge.json"
TOKENIZER = "tokenizer.json"
TASKS = ("sentiment", "fill-mask")
# Not model_quantized.onnx, which others open by that name: the edge graph takes texts unpadded, without attention mask,
# and in fill-mask has logits at [MASK] alone.
GRAPHS = {"fp32": "onnx/model.onnx", "int8": "onnx/model_edge.onnx"}
# At the end of a graph's name: the file beside it with its weights, if it has one.
DATA_SUFFIX = "_data"
ENVIRONMENT = "EDGE_IMDB_MODELS"
EMBEDDED = Path(__file__).parent / "models"
# A manifest is a few KiB; anything far larger is not one.
_MANIFEST_LIMIT = 1 << 20


@dataclass(frozen=True)
class FirstReading:
    """How a long review is read at first: cut to ``length`` tokens, and no further if that makes sure enough.

    ``threshold`` is the probability of the best label, calibrated with ``temperature``, from which it is sure enough.
    """

    length: int
    temperature: float
    threshold: float


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest was read and checked, and whose files were not opened yet.

    A fill-mask bundle has no ``labels`` and no ``temperature`` but 1; of ``truncation`` it uses the length alone.
    ``first_reading`` None: a review is read but once.
    ``metrics``, ``quantization`` and ``versions`` are what export wrote, for people to read.
    """

    path: Path
    task: str
    labels: list[str]
    truncation: Truncation
    temperature: float
    first_reading: FirstReading | None
    graphs: dict[str, str]
    files: dict[str, dict[str, Any]]
    metrics: dict[str, Any]
    quantization: dict[str, Any] | None
    versions: dict[str, str]

    def file(self, name: str, hashed: bool = True) -> Path:
        """The path of one file after its size and its sha256 were checked. Raises BundleError by the file's name.

        Without ``hashed`` its sha256 isn't, which is for the caller to do before anything is made of its content.
        """
        entry = self.files.get(name)
        path = self.path / name
        if entry is None:
            raise BundleError(f"{self.path / MANIFEST} doesn't list {name}: export the bundle again.")
        try:
            if not path.resolve(strict=True).is_relative_to(self.path.resolve()):
                raise BundleError(f"{path} leads out of its bundle: export the bundle again.")
            if path.stat().st_size != entry["bytes"]:
                raise BundleError(
                    f"{path} has {path.stat().st_size} bytes where {MANIFEST} says {entry['bytes']}: "
                    "it was altered or cut short; export or copy the bundle again."
                )
            digest = sha256(path) if hashed else entry["sha256"]
        except OSError as error:
            raise BundleError(f"{path} can't be read ({error.strerror}): export or copy the bundle again.") from None
        if digest != entry["sha256"]:
            raise BundleError(f"{path} differs from its sha256 in {MANIFEST}: export or copy the bundle again.")
        return path

    def graph(self, precision: str) -> Path:
        """The path of the ``fp32`` or ``int8`` graph, checked; of its weights beside it only the size.

        Raises BundleError where the bundle lacks it, or it wants weights from elsewhere.
        """
        if precision not in self.graphs:
            raise BundleError(
                f"The bundle {self.path} has no {precision} graph (it has {', '.join(self.graphs)}): "
                "use another precision, or export it."
            )
        path = self.file(self.graphs[precision])
        name = self.weights(precision)
        check_external_data(path, None if name is None else self.file(name, hashed=False))
        return path

    def weights(self, precision: str) -> str | None:
        """The name of the file beside a graph that holds its weights; None where it holds them itself."""
        name = self.graphs[precision] + DATA_SUFFIX
        return name if name in self.files or (self.path / name).exists() else None

    def size(self, precision: str) -> int:
        """Bytes of a graph and its weights, by the manifest."""
        name = self.graphs[precision]
        return sum(self.files[part]["bytes"] for part in (name, name + DATA_SUFFIX) if part in self.files)


def find_bundle(task: str, model: str | os.PathLike[str] | None = None) -> tuple[Path, str]:
    """The folder of the bundle to use for ``task``, and why that one. It may not exist."""
    if model is not None:
        return Path(model), "asked for"
    root = os.environ.get(ENVIRONMENT)
    if root:
        return Path(root, task), f"${ENVIRONMENT}"
    local = Path("models", task)
    if local.is_dir():
        return local, "./models"
    return EMBEDDED / task, "embedded"


def open_bundle(path: Path, task: str) -> Bundle:
    """Read and check the manifest of a bundle. Raises BundleError, naming what is wrong."""
    manifest = path / MANIFEST
    if not path.is_dir():
        raise BundleError(f"There is no bundle in {path}: make one with `edge-imdb export {task} --quantize`.")
    try:
        with manifest.open("rb") as file:
            content = file.read(_MANIFEST_LIMIT + 1)
    except FileNotFoundError:
        hint = (
            f"it is a run or a checkpoint; make a bundle of it with `edge-imdb export {task} --quantize`"
            if (path / "config.json").exists()
            else f"make a bundle with `edge-imdb export {task} --quantize`"
        )
        raise BundleError(f"{path} is no bundle, for it has no {MANIFEST}: {hint}.") from None
    except OSError as error:
        raise BundleError(f"{manifest} can't be read ({error.strerror}): check its permissions.") from None
    try:
        if len(content) > _MANIFEST_LIMIT:
            raise ValueError("it is over 1 MiB")
        return _parse(path, json.loads(content.decode("utf-8")), task)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{manifest} is not valid ({error}): export or copy the bundle again.") from None


def _get(record: Any, key: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise ValueError(f"{key!r} is missing")
    value = record[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key!r} is {value!r:.80}")
    return value


def _parse(path: Path, record: Any, task: str) -> Bundle:
    version = _get(record, "format", int)
    if version != FORMAT:
        if version > FORMAT:
            raise BundleError(f"{path} has format {version}, newer than {FORMAT}: upgrade edge-imdb to read it.")
        raise ValueError(f"'format' is {version}")
    if _get(record, "sha256", str) != seal(record):
        raise ValueError("it differs from its own 'sha256'")
    found = _get(record, "task", str)
    if found != task:
        raise BundleError(f"{path} is a {found} bundle where a {task} one is needed: give another with --model.")
    labels, temperature, first_reading = [], 1.0, None
    strategy, head_ratio = "window", 0.5
    if task == "sentiment":
        labels = _get(record, "labels", list)
        if len(labels) < 2 or not all(isinstance(label, str) for label in labels) or len(set(labels)) < len(labels):
            raise ValueError("'labels' must be two different names or more")
        temperature = _temperature(_get(record, "calibration", dict))
        if record.get("first_reading") is not None:
            first_reading = _first_reading(_get(record, "first_reading", dict))
        strategy, head_ratio = "head+tail", _get(_get(record, "truncation", dict), "head_ratio", (int, float))
    cut = _get(record, "truncation", dict)
    if _get(cut, "strategy", str) != strategy:
        raise ValueError(f"'strategy' is {cut['strategy']!r:.80}")
    max_length = _get(cut, "max_length", int)
    if not 3 <= max_length <= 1 << 20 or not 0 <= head_ratio <= 1:
        raise ValueError(f"'truncation' is {cut!r:.80}")
    graphs = _get(record, "graphs", dict)
    files = _get(record, "files", dict)
    for name, entry in files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name:
            raise ValueError(f"the file name {name!r:.80} leads out of the bundle")
        if _get(entry, "bytes", int) < 0 or len(_get(entry, "sha256", str)) != 64:
            raise ValueError(f"the entry of {name!r:.80} is {entry!r:.80}")
    named = all(isinstance(name, str) and name in files for name in graphs.values())
    if not graphs or not set(graphs) <= set(GRAPHS) or not named:
        raise ValueError(f"'graphs' is {graphs!r:.80}")
    quantization = record.get("quantization")
    if quantization is not None and not isinstance(quantization, dict):
        raise ValueError(f"'quantization' is {quantization!r:.80}")
    return Bundle(
        path=path,
        task=task,
        labels=labels,
        truncation=Truncation(max_length, float(head_ratio)),
        temperature=temperature,
        first_reading=first_reading,
        graphs=graphs,
        files=files,
        metrics=_get(record, "metrics", dict),
        quantization=quantization,
        versions=_get(record, "versions", dict),
    )


def _temperature(record: Any) -> float:
    value = _get(record, "temperature", (int, float))
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"'temperature' is {value!r}")
    return float(value)


def _first_reading(record: Any) -> FirstReading:
    length, threshold = _get(record, "length", int), _get(record, "threshold", (int, float))
    if not 3 <= length <= 1 << 20 or not 0 <= threshold <= 1:
        raise ValueError(f"'first_reading' is {record!r:.80}")
    return FirstReading(length, _temperature(record), float(threshold))


def write_manifest(
    folder: Path,
    *,
    task: str,
    behaviour: dict[str, Any],
    quantization: dict[str, Any] | None,
    metrics: dict[str, Any],
    versions: dict[str, str],
) -> None:
    """Write edge.json for the files that stand in ``folder``, and check that it can be read back.

    ``behaviour`` is what a task's runtime needs: ``labels``, ``truncation``, ``calibration`` and perhaps
    ``first_reading`` for sentiment, ``truncation`` for fill-mask.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    record = {
        "format": FORMAT,
        "task": task,
        **behaviour,
        "graphs": {precision: name for precision, name in GRAPHS.items() if name in names},
        "quantization": quantization,
        "metrics": metrics,
        "versions": versions,
        "files": {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256(folder / n)} for n in names},
    }
    record["sha256"] = seal(record)
    (folder / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    open_bundle(folder, task)


def seal(record: dict[str, Any]) -> str:
    """The hex digest of a manifest's content but for its ``sha256``: an altered threshold would go unnoticed else."""
    content = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
