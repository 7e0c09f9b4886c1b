"""The parts that both trainings share: open, resume and finish a run's folder, and describe the machine."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import json
import logging
import os
import platform
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from accelerate import PartialState
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..data.datasets import sources_of
from ..data.run_folder import METRICS, RECORD, public_name, uploaded_files
from ..errors import EdgeImdbError, OutputError, UsageError
from ..output import check_free, discard, locked, staging, write_text
from ..runtime.hub import check_access, upload
from ..tasks.card import render_card
from .energy import check_country
from .options import Options, hyperparameters
from .progress import draw_curves, read_log, write_log

# mallopt's parameters, from malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def quiet_libraries() -> None:
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for name in ("accelerate", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    # Users can't act on PyTorch's warnings about pinned memory and the order of lr_scheduler.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"torch\.")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="mtime may not be reliable")


def keep_memory() -> None:
    """Make glibc keep freed memory. By default it returns large blocks at once, and the kernel must clear new ones.

    Training on a CPU frees and takes the same hundreds of megabytes in every step. Keeping them made a fill-mask step
    of 16 chunks of 256 tokens at width 384 faster by a quarter (0.76 s instead of 0.99 s). The blocks should have few
    different sizes, because otherwise the heap fragments. Without glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    for parameter, value in ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28)):
        mallopt(parameter, value)


def has_accelerator() -> bool:
    return torch.cuda.is_available() or torch.backends.mps.is_available()


@dataclass
class Run:
    """A run of either task: its folder, the folder of its unfinished state, and this process's part in it."""

    task: str
    options: Options
    target: Path
    state: PartialState
    checkpoint: Path | None
    _say: Callable[[str], None]

    @property
    def partial(self) -> Path:
        """The folder with everything until the run is finished, from which ``--resume`` continues."""
        return partial_of(self.target)

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return bool(self.state.is_main_process)

    def say(self, line: str) -> None:
        """Print one fact for a person, once, however many processes train."""
        if self.main:
            self._say(line)

    def begin(
        self,
        keep: Callable[[Path, list[dict[str, float]]], list[dict[str, float]]],
        fingerprints: Mapping[str, str],
    ) -> None:
        """Open the unfinished folder; to resume, cut its log back to what ``keep(checkpoint, log)`` returns.

        ``fingerprints`` identify what the run learns from, by its name in a message. Call this only after every check
        that a wrong option could fail. Raises UsageError if the run began with others.
        """
        self.state.wait_for_everyone()
        if self.checkpoint is not None:
            before = json.loads((self.partial / RECORD).read_text(encoding="utf-8")).get("fingerprints", {})
            changed = [name for name, value in fingerprints.items() if before.get(name, value) != value]
            if changed:
                named = " and ".join([", ".join(changed[:-1]), changed[-1]] if changed[1:] else changed).capitalize()
                raise UsageError(
                    f"{named} changed since the run in {self.partial} began: give the same data to "
                    "go on, or --overwrite to begin anew."
                )
        if self.main and self.checkpoint is None:
            record = {
                "task": self.task,
                "hyperparameters": hyperparameters(self.options),
                "world_size": self.state.num_processes,
                "fingerprints": dict(fingerprints),
            }
            discard(self.partial)
            # The folder and its record appear together, because the record marks the folder as a run's.
            with staging(self.partial) as folder:
                write_text(folder / RECORD, json.dumps(record, indent=2) + "\n")
        elif self.main and self.checkpoint is not None:
            # The steps after the checkpoint will be logged again.
            write_log(keep(self.checkpoint, read_log(self.log)), self.log)
        self.state.wait_for_everyone()

    @property
    def log(self) -> Path:
        return self.partial / "log.jsonl"

    def finish(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        metrics: dict[str, Any],
        log: list[dict[str, float]],
        measure: str,
        title: str | None = None,
    ) -> None:
        """Write the finished folder, ready for the Hub, in one step; remove the unfinished one; upload it if asked to.

        ``measure`` is the figure to draw over the steps, and ``title`` its name. Only the main process calls this.
        """
        metrics = {"task": self.task, **metrics, "hub": on_hub(self.options)}
        with staging(self.target) as folder:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            shutil.copy(self.partial / RECORD, folder / RECORD)
            (folder / METRICS).write_text(json.dumps(metrics, indent=2, allow_nan=False) + "\n", encoding="utf-8")
            write_log(log, folder / "log.jsonl")
            draw_curves(log, folder / "curves.png", measure, title)
            (folder / "README.md").write_text(render_card(metrics), encoding="utf-8")
        discard(self.partial)
        self.say(f"wrote {self.target}")
        if self.options.push_to_hub:
            address = upload(self.target, uploaded_files(self.target), self.options.push_to_hub)
            self.say(f"uploaded to {address}")


def partial_of(target: Path) -> Path:
    """The folder of the unfinished run beside ``target``."""
    return target.with_name(f"{target.name}.partial")


@contextlib.contextmanager
def open_run(
    task: str, options: Options, say: Callable[[str], None], last: Callable[[Path], Path | None]
) -> Iterator[Run]:
    """The run that ``options``, which were checked, describe, from the first check outside them to its end.

    Inside the block no other run can write its folder, and a full disk becomes an OutputError. ``last`` finds the
    newest complete checkpoint in the folder of an unfinished run. With ``accelerate launch`` every process calls this.

    Raises OutputError, UsageError, HubError.
    """
    check_country(options.country)
    if options.push_to_hub:
        # Before hours of training, not after them.
        check_access(options.push_to_hub)
    quiet_libraries()
    keep_memory()
    state = PartialState(cpu=not has_accelerator())
    target = Path(options.output) / task
    with locked(target) if state.is_main_process else contextlib.nullcontext():
        try:
            checkpoint = find_checkpoint(options, target, partial_of(target), state.num_processes, last)
            yield Run(task, options, target, state, checkpoint, say)
            state.wait_for_everyone()
        except EdgeImdbError:
            raise
        except Exception as error:
            # PyTorch's and safetensors' writers raise their own errors, and the first doesn't say why.
            if not _disk_is_full(target.parent, error):
                raise
            raise OutputError(
                f"{target.parent} can't be written (No space left on device): make room, and --resume continues from "
                "the last checkpoint, if there was one."
            ) from error


def _disk_is_full(folder: Path, error: Exception) -> bool:
    if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        return True
    return folder.exists() and shutil.disk_usage(folder).free < 1 << 16


def fingerprint_of(*parts: Any) -> str:
    """A hash of texts, numbers, arrays and lists of them, in their order.

    >>> fingerprint_of(["good", "bad"], [1, 0]) == fingerprint_of(["good", "bad"], [0, 1])
    False
    """
    digest = hashlib.sha256()
    for part in parts:
        for value in part if isinstance(part, (list, tuple)) else [part]:
            content = value.tobytes() if isinstance(value, np.ndarray) else str(value).encode("utf-8", "surrogatepass")
            digest.update(len(content).to_bytes(8, "little") + content)
        digest.update(b"end of part")
    return digest.hexdigest()


def find_checkpoint(
    options: Options, target: Path, partial: Path, world_size: int, last: Callable[[Path], Path | None]
) -> Path | None:
    """Check that the run may be written, and return the checkpoint to continue from, if any. Writes nothing.

    ``last`` finds the newest complete checkpoint in the folder of an unfinished run.
    """
    check_free(target, options.overwrite, "finished run", METRICS)
    record = partial / RECORD
    if partial.exists() and any(partial.iterdir()) and not record.exists():
        raise OutputError(f"{partial} contains files that are not a run: choose another --output.")
    checkpoint = last(partial)
    if not options.resume:
        # A run that stopped before its first checkpoint has nothing to lose.
        if checkpoint is not None and not options.overwrite:
            raise OutputError(f"{partial} contains an unfinished run: --resume continues it, --overwrite discards it.")
        return None
    if not record.exists():
        raise OutputError(f"{partial} contains no unfinished run: leave --resume out to start one.")
    before = json.loads(record.read_text(encoding="utf-8"))
    # A run of an earlier version lacks newer options, which had no effect then, as their defaults have none.
    known = {**hyperparameters(type(options)()), **before["hyperparameters"]}
    for name, value in hyperparameters(options).items():
        if known[name] != value:
            raise UsageError(
                f"The unfinished run in {partial} has {name} {known[name]!r}, and not "
                f"{value!r}: give the same options to go on, or --overwrite to begin anew."
            )
    if before["world_size"] != world_size:
        raise UsageError(
            f"The unfinished run in {partial} has {before['world_size']} processes, and not {world_size}: "
            "launch as many to go on, or give --overwrite to begin anew."
        )
    return checkpoint


def on_hub(options: Options) -> dict[str, str | list[str]]:
    """The base and the data sets of a run, if they are on the Hub, so that a card can link to them."""
    found: dict[str, str | list[str]] = {"base": options.base} if _is_hub_id(options.base) else {}
    sources = sources_of(hyperparameters(options)["data"] or [])
    if data := [name for name in sources if _is_hub_id(name)]:
        found["data"] = data
    return found


def _is_hub_id(value: str) -> bool:
    return not Path(value).exists() and value.count("/") <= 1 and not value.startswith((".", "/", "~"))


def public(values: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters for others to read. Of a local path only the last part is kept, so that no folder is revealed."""
    local = ("base", "data", "test_data", "leave_out", "scored")
    return {name: public_name(value) if name in local else value for name, value in values.items()}


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
    """The hyperparameters, the hardware and the versions with which a run's figures were made."""
    return {
        "hyperparameters": public(hyperparameters(options)),
        "hardware": hardware(device),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        },
    }
