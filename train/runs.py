"""What both trainings share: options checked, a run's folder found, opened and resumed, the machine described."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import logging
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..errors import EdgeImdbError, OutputError, UsageError
from ..options import METRICS, RECORD, Options, hyperparameters
from ..output import check_free, discard, locked, staging, write_text
from .energy import check_country
from .progress import draw_curves, write_log

# mallopt's parameters, from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def check_options(options: Options, positive: tuple[str, ...] = (), ratios: tuple[str, ...] = ()) -> None:
    """Raise UsageError for the first option out of range; ``positive`` and ``ratios`` name a task's own."""
    positive = ("epochs", "batch_size", "eval_batch_size", "gradient_accumulation", "learning_rate", "adam_epsilon",
                "max_grad_norm", *positive)  # fmt: skip
    ratios = ("validation", "warmup", "dropout", "attention_dropout", "adam_beta1", "adam_beta2", *ratios)
    for name in positive:
        if not getattr(options, name) > 0:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(options, name)}: it must be over 0.")
    for name in ratios:
        if not 0 <= getattr(options, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {getattr(options, name)}: it must be from 0 to under 1.")
    if options.weight_decay < 0:
        raise UsageError(f"--weight-decay is {options.weight_decay}: it must be 0 or more.")
    if options.limit is not None and options.limit < 4:
        raise UsageError(f"--limit is {options.limit}: it must be 4 or more.")
    check_country(options.country)
    if options.resume and options.overwrite:
        raise UsageError("--resume goes on with a run and --overwrite drops it: give one of the two.")


def quiet_libraries() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("accelerate", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Pinned memory and lr_scheduler order: nothing that a person who trains could act on.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="mtime may not be reliable")


def keep_memory() -> None:
    """Have glibc keep freed memory. By default it hands large blocks back at once and the kernel clears them anew.

    Training on a CPU frees and takes the same hundreds of megabytes at every step; keeping them made a fill-mask step
    of 16 chunks of 256 tokens at width 384 a quarter faster or more (0.76 s instead of 0.99 s). Blocks must be
    of few sizes then, or the heap fragments. Elsewhere than on glibc: nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28)):
        mallopt(parameter, value)


def has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


@contextlib.contextmanager
def writing(target: Path, main: bool) -> Iterator[None]:
    """What the ``main`` process of a run does within: no other run writes ``target``, and a full disk is a sentence.

    Raises OutputError.
    """
    with locked(target) if main else contextlib.nullcontext():
        try:
            yield
        except EdgeImdbError:
            raise
        except Exception as error:
            # PyTorch's and safetensors' writers raise their own errors, and the first doesn't say why.
            if not _disk_is_full(target.parent, error):
                raise
            raise OutputError(
                f"{target.parent} can't be written (No space left on device): make room, and --resume goes on from "
                "the last checkpoint, if there was one."
            ) from error


def _disk_is_full(folder: Path, error: Exception) -> bool:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return True
    return folder.exists() and shutil.disk_usage(folder).free < 1 << 16


def find_checkpoint(
    options: Options, target: Path, partial: Path, world_size: int, last: Callable[[Path], Path | None]
) -> Path | None:
    """Check that the run may be written; return the checkpoint to go on from, if there is one. Writes nothing.

    ``last`` finds the newest whole checkpoint in the folder of an unfinished run.
    """
    check_free(target, options.overwrite, "finished run", METRICS)
    record = partial / RECORD
    if partial.exists() and any(partial.iterdir()) and not record.exists():
        raise OutputError(f"{partial} holds files that are no run: choose another --output.")
    checkpoint = last(partial)
    if not options.resume:
        # What stopped before its first checkpoint has nothing to lose.
        if checkpoint is not None and not options.overwrite:
            raise OutputError(
                f"{partial} holds an unfinished run: --resume goes on with it, --overwrite drops it and begins anew."
            )
        return None
    if not record.exists():
        raise OutputError(f"{partial} holds no unfinished run: leave --resume out to begin one.")
    before = json.loads(record.read_text(encoding="utf-8"))
    for name, value in hyperparameters(options).items():
        if before["hyperparameters"].get(name) != value:
            raise UsageError(
                f"The unfinished run in {partial} has {name} {before['hyperparameters'].get(name)!r}, and not "
                f"{value!r}: give the same options to go on, or --overwrite to begin anew."
            )
    if before["world_size"] != world_size:
        raise UsageError(
            f"The unfinished run in {partial} has {before['world_size']} processes, and not {world_size}: "
            "launch as many to go on, or give --overwrite to begin anew."
        )
    return checkpoint


def open_partial(task: str, options: Options, partial: Path, world_size: int) -> None:
    """Make the folder of an unfinished run in place of what stood there."""
    discard(partial)
    partial.mkdir(parents=True)
    record = {"task": task, "hyperparameters": hyperparameters(options), "world_size": world_size}
    write_text(partial / RECORD, json.dumps(record, indent=2) + "\n")


def computes_bf16() -> bool:
    """Whether bf16 is arithmetic here, and not emulated (which on a CPU is slower than fp32)."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if torch.backends.mps.is_available():
        return False
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name)()) for name in checks if hasattr(torch.cpu, name))


def public(values: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters for others to read: local paths by their last part, so that no folder of this machine shows."""
    return {
        name: Path(value).name if name in ("base", "data", "test_data") and value and Path(value).exists() else value
        for name, value in values.items()
    }


def hardware(device: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else _cpu_name()
    return {"device": device, "name": name, "cpu_count": os.cpu_count(), "system": platform.system()}


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def described(device: torch.device, processes: int, bf16: bool) -> str:
    return f"{device.type} x {processes}, {'bf16 autocast' if bf16 else 'fp32'}"


def setting(options: Options, device: str) -> dict[str, Any]:
    """What a run's figures were made with: hyperparameters, hardware, versions."""
    return {
        "hyperparameters": public(hyperparameters(options)),
        "hardware": hardware(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }


def finish(
    target: Path,
    partial: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    metrics: dict[str, Any],
    log: list[dict[str, float]],
    measure: str,
    write_card: Callable[[Path, dict[str, Any]], None],
) -> None:
    """Write the finished folder, ready for the Hub, in one step, and drop the unfinished one."""
    with staging(target) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        shutil.copy(partial / RECORD, folder / RECORD)
        (folder / METRICS).write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
        write_log(log, folder / "log.jsonl")
        draw_curves(log, folder / "curves.png", measure)
        write_card(folder, metrics)
    discard(partial)
