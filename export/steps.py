"""What the exports of both tasks share: a run read, its held-out reviews recognised, its fp32 graph written."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from optimum.exporters.onnx import main_export

from .. import __version__
from ..bundle import GRAPHS
from ..errors import BundleError, DataError, GateError
from ..options import METRICS, RECORD
from ..splits import fingerprint

# Largest difference of logits allowed between PyTorch and the fp32 graph.
TOLERANCE = 1e-4
# So many train reviews show which channels of the hidden states are outliers.
CALIBRATION = 64
COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def read_run(source: Path, task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The figures and the options of a finished run of ``task``. Raises BundleError."""
    try:
        metrics = json.loads((source / METRICS).read_text(encoding="utf-8"))
        run = json.loads((source / RECORD).read_text(encoding="utf-8"))
    except OSError:
        hint = ""
        if source.with_name(f"{source.name}.partial").is_dir():
            hint = f" An unfinished one is there: `edge-imdb train {task} --resume` goes on with it."
        raise BundleError(
            f"There is no finished run in {source}: make one with `edge-imdb train {task}`, or name its parent folder "
            f"with --from.{hint}"
        ) from None
    except ValueError as error:
        raise BundleError(f"The run in {source} can't be read ({error}): train it again.") from None
    if metrics.get("task") != task:
        raise BundleError(f"{source} is a {metrics.get('task')} run where a {task} one is needed: give another --from.")
    return metrics, run["hyperparameters"]


def check_reviews(texts: list[str], expected: str, data: str) -> None:
    """Raise DataError where ``texts`` are not the validation reviews that a run held out."""
    if fingerprint(texts) != expected:
        raise DataError(f"The reviews in {data} are not those that the run was trained on: give the same with --data.")


def check_difference(difference: float, say: Callable[[str], None]) -> None:
    """Raise GateError where the fp32 graph's logits differ from PyTorch's by more than 1e-4."""
    say(f"fp32 against PyTorch: logits differ by {difference:.1e} at most")
    if not difference <= TOLERANCE:
        raise GateError(
            f"The fp32 graph's logits differ from PyTorch's by {difference:.2e}, over {TOLERANCE:.0e}: nothing was "
            "written; try other versions of torch and optimum-onnx."
        )


@contextlib.contextmanager
def quiet() -> Any:
    """Keep exporters' chatter off the screen; what matters they raise."""
    loggers = [logging.getLogger(name) for name in ("optimum", "transformers", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def write_fp32(source: Path, folder: Path, kind: str) -> None:
    """Write the fp32 graph of a run, as optimum exports a model for the task ``kind``, and the files beside it."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        main_export(str(source), scratch, task=kind, do_validation=False, library_name="transformers")
        (folder / "onnx").mkdir()
        shutil.move(Path(scratch, "model.onnx"), folder / GRAPHS["fp32"])
    for name in COPIED:
        if (source / name).exists():  # transformers 5 writes no special_tokens_map.json
            shutil.copy(source / name, folder / name)


def lasting(figures: dict[str, float]) -> dict[str, float]:
    """Figures without those of speed, which belong to a machine and a moment and not to a bundle."""
    return {name: value for name, value in figures.items() if not name.endswith("_per_second")}


def versions() -> dict[str, str]:
    """Of the packages that made a bundle."""
    names = ("onnx", "onnxruntime", "optimum", "torch", "transformers")
    return {"edge-imdb": __version__, **{name: version(name) for name in names}}


def size_of(folder: Path) -> float:
    """MiB of the files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20
