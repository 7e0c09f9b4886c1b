"""open_session and providers: ONNX Runtime with the execution provider and the threads that were asked for."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import BundleError, MissingDependencyError, ProviderError, UsageError

if TYPE_CHECKING:
    import onnxruntime

# The names that people type, and ONNX Runtime's.
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "rocm": "ROCMExecutionProvider",
    "migraphx": "MIGraphXExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "dnnl": "DnnlExecutionProvider",
    "coreml": "CoreMLExecutionProvider",
    "directml": "DmlExecutionProvider",
    "qnn": "QNNExecutionProvider",
    "xnnpack": "XnnpackExecutionProvider",
}


def warn(line: str) -> None:
    """Print a line for a person to standard error."""
    print(line, file=sys.stderr)


def runtime() -> Any:
    """The module onnxruntime. Raises MissingDependencyError, which says what to install."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "No ONNX Runtime is installed: pip install onnxruntime (or onnxruntime-gpu, for CUDA)."
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingDependencyError(
            "The installed ONNX Runtime is broken, as it is after one of onnxruntime and onnxruntime-gpu was removed "
            "from beside the other: pip uninstall both, then install one."
        )
    _let_forked_processes_end()
    return onnxruntime


@functools.cache
def _let_forked_processes_end() -> None:
    """Spare processes that are forked from now on what ONNX Runtime does at a process's end.

    It waits for threads that it started when it was imported, and that a fork leaves behind: forever, or until it gives
    up with a core dump. glibc's on_exit ends such a process just before, when Python has done all that it has to do.
    """
    try:
        libc = ctypes.CDLL(None)
        on_exit, end = libc.on_exit, libc._exit
    except (OSError, AttributeError, TypeError):
        return
    os.register_at_fork(after_in_child=lambda: on_exit(end, None))


def available_providers() -> list[str]:
    """The names of PROVIDERS that the installed runtime was built with; any it has beyond them as it calls them."""
    names = {theirs: ours for ours, theirs in PROVIDERS.items()}
    return [names.get(theirs, theirs) for theirs in runtime().get_available_providers()]


def choose_provider(provider: str) -> str:
    """The provider to try first: ``auto`` is CUDA where the runtime has it, else the CPU.

    Raises UsageError for an unknown name, ProviderError where the runtime lacks it.
    """
    if provider != "auto" and provider not in PROVIDERS:
        raise UsageError(f"There is no execution provider {provider!r}: use auto, {', '.join(PROVIDERS)}.")
    available = available_providers()
    if provider == "auto":
        return "cuda" if "cuda" in available else "cpu"
    if provider not in available:
        hint = "; for CUDA, pip install onnxruntime-gpu in onnxruntime's place" if provider == "cuda" else ""
        raise ProviderError(
            f"The installed ONNX Runtime has no execution provider {provider!r}: "
            f"use auto or one that it has ({', '.join(available)}){hint}."
        )
    return provider


def open_session(
    graph: Path,
    provider: str = "auto",
    threads: int | None = None,
    say: Callable[[str], None] = warn,
    *,
    optimise: bool = True,
) -> onnxruntime.InferenceSession:
    """Load a graph. ``threads`` is how many work on one text; None leaves one a physical core.

    ``optimise`` False runs the graph as it is written, which loads faster too.
    ``say`` gets a line where ``auto`` found a CUDA runtime that doesn't start and fell back to the CPU.
    Raises UsageError, ProviderError, BundleError.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"--threads is {threads}: it must be 1 or more.")
    onnxruntime = runtime()
    chosen = choose_provider(provider)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Between two runs threads spin, to be at hand for the next: for a millisecond, not the ten of the default, which
    # keep a core busy for nothing. Older runtimes don't know the setting and keep to theirs.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    order = [PROVIDERS[chosen]] if chosen == "cpu" else [PROVIDERS[chosen], PROVIDERS["cpu"]]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=order)
    except Exception as error:
        if chosen == "cpu":
            reason = str(error).splitlines()[0]
            raise BundleError(f"ONNX Runtime can't load {graph} ({reason}): export the bundle again.") from error
        if provider != "auto":
            raise ProviderError(
                f"The execution provider {chosen!r} doesn't start: {str(error).splitlines()[0]}"
            ) from error
        say(f"CUDA doesn't start ({str(error).splitlines()[0]}): running on the CPU.")
        return open_session(graph, "cpu", threads, say, optimise=optimise)
    if chosen != "cpu" and PROVIDERS[chosen] not in session.get_providers():
        if provider != "auto":
            raise ProviderError(
                f"The execution provider {chosen!r} doesn't start on this machine: check its driver and libraries, "
                "or use --provider cpu."
            )
        say("This ONNX Runtime has CUDA but can't start it (driver or libraries are missing): running on the CPU.")
    return session
