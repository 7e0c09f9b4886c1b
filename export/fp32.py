"""write_fp32: the standard fp32 graph of a run, by optimum."""

from __future__ import annotations

import contextlib
import io
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

from optimum.exporters.onnx import main_export

from ..runtime.bundle import GRAPHS

COPIED = ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide the log messages of the exporters; real problems are raised."""
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


def write_fp32(source: Path, folder: Path, task: str) -> None:
    """Write the fp32 graph of the run in ``source``, as optimum exports it for ``task``, and its tokenizer."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        main_export(str(source), scratch, task=task, do_validation=False, library_name="transformers")
        (folder / "onnx").mkdir()
        shutil.move(Path(scratch, "model.onnx"), folder / GRAPHS["fp32"])
    for name in COPIED:
        if (source / name).exists():  # transformers 5 writes no special_tokens_map.json
            shutil.copy(source / name, folder / name)
