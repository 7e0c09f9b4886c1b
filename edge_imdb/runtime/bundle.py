"""Bundle, find_bundle, open_bundle, write_manifest: the only module that knows the format of edge.json."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..data.text import Truncation
from ..errors import BundleError, raised_by
from . import behaviour
from .behaviour import Behaviour, EarlyExit, get
from .external_data import check_external_data

FORMAT = 2
MANIFEST = "edge.json"
TOKENIZER = "tokenizer.json"
CONFIG = "config.json"
# optimum opens the first file that ends in .onnx, in any folder, and expects the standard graph's inputs and outputs.
# So our own int8 graphs end in .pb, the other usual suffix of ONNX files; those of older bundles end in .onnx. The int8
# graph takes one unpadded text without an attention mask, and for fill-mask gives logits only at [MASK].
GRAPHS = {"fp32": "onnx/model.onnx", "int8": "onnx/model_edge.pb"}
# Further int8 graphs that share their weights. ``explain`` also weighs the words. ``batch`` takes batches with an
# attention mask, under the name that transformers.js looks for.
MORE_GRAPHS = {"explain": "onnx/model_explain.pb", "batch": "onnx/model_quantized.onnx"}
# The file with the weights of a graph has the graph's name with this suffix.
DATA_SUFFIX = "_data"
# The one file with the weights of all int8 graphs, under the name that transformers.js looks for.
WEIGHTS = MORE_GRAPHS["batch"] + DATA_SUFFIX
# An input of an int8 graph that drops tokens, which may be left out: the share to keep after each layer but the last.
KEPT_SHARES = "kept_shares"
ENVIRONMENT = "EDGE_IMDB_MODELS"
EMBEDDED = Path(__file__).parent.parent / "models"
# A manifest has a few KiB; anything far larger isn't one.
_MANIFEST_LIMIT = 1 << 20


@dataclass(frozen=True)
class Bundle:
    """A bundle whose manifest was read and checked. Its other files aren't open yet.

    A fill-mask bundle has no ``labels``, its ``temperature`` is 1, and it uses only the length of ``truncation``. If
    ``early_exit`` is None, every review is read once, at full length. ``token_dropping`` has the share of the tokens
    that the int8 graph keeps after each layer but the last; None if it keeps all. ``digest`` is the sha256 of the
    manifest, which identifies the whole bundle, because it covers the hashes of all files. ``metrics``,
    ``quantization`` and ``versions`` are for people to read.

    >>> bundle = open_bundle(EMBEDDED / "sentiment", "sentiment")
    >>> bundle.labels, sorted(bundle.graphs)
    (['neg', 'pos'], ['batch', 'explain', 'int8'])
    """

    path: Path
    task: str
    labels: list[str]
    truncation: Truncation
    temperature: float
    early_exit: EarlyExit | None
    token_dropping: tuple[float, ...] | None
    graphs: dict[str, str]
    files: dict[str, dict[str, Any]]
    digest: str
    metrics: dict[str, Any]
    quantization: dict[str, Any] | None
    versions: dict[str, str]

    def file(self, name: str, hashed: bool = True) -> Path:
        """Check the size and the sha256 of one file, and return its path. Raises BundleError, which names the file.

        The file may be a link to anywhere, as in the Hub's cache, because its hash shows that it belongs to the bundle.
        With ``hashed`` False the sha256 is not checked; the caller must check it before using the content.
        """
        entry = self.files.get(name)
        path = self.path / name
        if entry is None:
            raise BundleError(f"{self.path / MANIFEST} doesn't list {name}: export the bundle again.")
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):
                raise BundleError(f"{path} is not a file: export or copy the bundle again.")
            if found.st_size != entry["bytes"]:
                raise BundleError(
                    f"{path} has {found.st_size} bytes, but {MANIFEST} says {entry['bytes']}: "
                    "it was altered or truncated; export or copy the bundle again."
                )
            digest = sha256(path) if hashed else entry["sha256"]
        except BundleError:
            raise
        except OSError as error:
            if not raised_by(error):
                raise
            raise BundleError(f"{path} can't be read ({error.strerror}): export or copy the bundle again.") from None
        if digest != entry["sha256"]:
            raise BundleError(f"{path} doesn't match its sha256 in {MANIFEST}: export or copy the bundle again.")
        return path

    def graph(self, precision: str) -> Path:
        """Check the ``fp32`` or ``int8`` graph and return its path. Of a weights file only the size is checked.

        Raises BundleError if the bundle doesn't have the graph, or if the graph takes weights from another file.
        """
        if precision not in self.graphs:
            raise BundleError(
                f"The bundle {self.path} has no {precision} graph (it has {', '.join(self.graphs)}): "
                "use another precision, or export the bundle again."
            )
        path = self.file(self.graphs[precision])
        name = self.weights(precision)
        check_external_data(path, None if name is None else self.file(name, hashed=False))
        return path

    def weights(self, precision: str) -> str | None:
        """The name of the file with a graph's weights; None if they are in the graph itself."""
        own = self.graphs[precision] + DATA_SUFFIX
        names = (own,) if precision == "fp32" else (own, WEIGHTS)
        return next((name for name in names if name in self.files or (self.path / name).exists()), None)

    def needed(self, precision: str) -> list[str]:
        """The names of a graph and of the file with its weights. A name that the manifest doesn't list is left out."""
        return [name for name in (self.graphs[precision], self.weights(precision)) if name in self.files]

    def size(self, precision: str) -> int:
        """The size of a graph and its weights in bytes, as the manifest states it."""
        parts = (self.graphs[precision], self.weights(precision))
        return sum(self.files[part]["bytes"] for part in parts if part in self.files)


def find_bundle(task: str, model: str | os.PathLike[str] | None = None, local: bool = False) -> tuple[Path, str]:
    """The folder of the bundle to use for ``task``, and the reason why. The folder may not exist.

    With ``local``, ./models/TASK has priority over the embedded bundle. Only commands use that, because the results of
    a library must not depend on the working directory.

    >>> find_bundle("sentiment", "my/bundle")[1]
    'asked for'
    """
    here = Path("models", task)
    if model is not None:
        return Path(model), {EMBEDDED / task: "embedded", here: "./models"}.get(Path(model), "asked for")
    root = os.environ.get(ENVIRONMENT)
    if root:
        return Path(root, task), f"${ENVIRONMENT}"
    if local and here.is_dir():
        return here, "./models"
    return EMBEDDED / task, "embedded"


def open_bundle(path: Path, task: str | None) -> Bundle:
    """Read and check the manifest of a bundle of ``task``; None accepts any task. Raises BundleError."""
    manifest = path / MANIFEST
    if not path.is_dir():
        raise BundleError(f"There is no bundle in {path}: make one with `edge-imdb export {task} --quantize`.")
    try:
        if not stat.S_ISREG(manifest.stat().st_mode):
            raise BundleError(f"{manifest} is not a file: export or copy the bundle again.")
        with manifest.open("rb") as file:
            content = file.read(_MANIFEST_LIMIT + 1)
    except FileNotFoundError:
        hint = (
            f"it is a run or a checkpoint; export it with `edge-imdb export {task} --quantize`"
            if (path / "config.json").exists()
            else f"make a bundle with `edge-imdb export {task} --quantize`"
        )
        raise BundleError(f"{path} is not a bundle, because it has no {MANIFEST}: {hint}.") from None
    except BundleError:
        raise
    except OSError as error:
        if not raised_by(error):
            raise
        raise BundleError(f"{manifest} can't be read ({error.strerror}): check its permissions.") from None
    try:
        if len(content) > _MANIFEST_LIMIT:
            raise ValueError("it is over 1 MiB")
        return _parse(path, json.loads(content.decode("utf-8")), task)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{manifest} is not valid ({error}): export or copy the bundle again.") from None


def _parse(path: Path, record: Any, task: str | None) -> Bundle:
    version = get(record, "format", int)
    if version != FORMAT:
        if version > FORMAT:
            raise BundleError(f"{path} has format {version}, newer than {FORMAT}: upgrade edge-imdb to read it.")
        raise BundleError(f"{path} has format {version}, older than {FORMAT}: export it again from its run.")
    if get(record, "sha256", str) != seal(record):
        raise ValueError("it doesn't match its own 'sha256'")
    found = get(record, "task", str)
    if found not in behaviour.tasks:
        raise ValueError(f"'task' is {found!r:.80}")
    if found != (task or found):
        raise BundleError(f"{path} is a {found} bundle, but a {task} bundle is needed: give the path of one.")
    own: Behaviour = behaviour.tasks[found].read_behaviour(record)
    graphs = get(record, "graphs", dict)
    files = get(record, "files", dict)
    for name, entry in files.items():
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name or ":" in name or "\0" in name:
            raise ValueError(f"the file name {name!r:.80} points outside the bundle")
        if get(entry, "bytes", int) < 0 or len(get(entry, "sha256", str)) != 64:
            raise ValueError(f"the entry of {name!r:.80} is {entry!r:.80}")
    named = all(isinstance(name, str) and name in files for name in graphs.values())
    if not graphs or not set(graphs) <= {*GRAPHS, *MORE_GRAPHS} or not named:
        raise ValueError(f"'graphs' is {graphs!r:.80}")
    quantization = record.get("quantization")
    if quantization is not None and not isinstance(quantization, dict):
        raise ValueError(f"'quantization' is {quantization!r:.80}")
    return Bundle(
        path=path,
        task=found,
        labels=own.labels,
        truncation=own.truncation,
        temperature=own.temperature,
        early_exit=own.early_exit,
        token_dropping=own.token_dropping,
        graphs=graphs,
        files=files,
        digest=record["sha256"],
        metrics=get(record, "metrics", dict),
        quantization=quantization,
        versions=get(record, "versions", dict),
    )


def write_manifest(
    folder: Path,
    *,
    task: str,
    behaviour: dict[str, Any],
    quantization: dict[str, Any] | None,
    metrics: dict[str, Any],
    versions: dict[str, str],
) -> None:
    """Write edge.json for the files in ``folder``, and check that it can be read back.

    ``behaviour`` holds the fields that ``read_behaviour`` of the task reads.
    """
    names = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    record = {
        "format": FORMAT,
        "task": task,
        **behaviour,
        "graphs": {precision: name for precision, name in {**GRAPHS, **MORE_GRAPHS}.items() if name in names},
        "quantization": quantization,
        "metrics": metrics,
        "versions": versions,
        "files": {n: {"bytes": (folder / n).stat().st_size, "sha256": sha256(folder / n)} for n in names},
    }
    record["sha256"] = seal(record)
    (folder / MANIFEST).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    open_bundle(folder, task)


def seal(record: dict[str, Any]) -> str:
    """The hex digest of a manifest without its ``sha256``. It reveals an altered field, such as a threshold."""
    content = {name: value for name, value in record.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode("utf-8")).hexdigest()


def sha256(path: Path) -> str:
    """The hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
