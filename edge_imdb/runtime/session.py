"""OnnxRuntime: the executor that runs graphs in ONNX Runtime, with a given execution provider and number of threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, MissingDependencyError, ProviderError, UsageError, first_line, raised_by
from .executor import Executor, Feed, Signature
from .source import Graph

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
_TELEMETRY = "ORT_DISABLE_TELEMETRY"


def warn(line: str) -> None:
    """Print a line for a person on standard error."""
    print(line, file=sys.stderr)


def runtime() -> Any:
    """The module onnxruntime. Raises MissingDependencyError, which says what to install."""
    try:
        with _without_telemetry():
            import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "No ONNX Runtime is installed: pip install 'edge-imdb[cpu]' (or 'edge-imdb[gpu]', for CUDA)."
        ) from error
    if not hasattr(onnxruntime, "InferenceSession"):
        raise MissingDependencyError(
            "The installed ONNX Runtime is broken, which happens if onnxruntime and onnxruntime-gpu were both "
            "installed and one was removed: pip uninstall both, then install one."
        )
    return onnxruntime


@contextlib.contextmanager
def _without_telemetry() -> Iterator[None]:
    """Keep ONNX Runtime from starting telemetry. It reads the variable only once, when it is imported.

    From version 1.29 on it reports each session (the graph's name and hashes, the machine) to its maker, which is wrong
    for texts that must stay on their device. Its thread doesn't exist in a forked process either, whose end would wait
    for it for ever. If the variable is already set, or onnxruntime already imported, nothing changes.
    """
    if "onnxruntime" in sys.modules or _TELEMETRY in os.environ:
        yield
        return
    os.environ[_TELEMETRY] = "1"
    try:
        yield
    finally:
        del os.environ[_TELEMETRY]


def usable_cores(root: Path = Path("/")) -> int | None:
    """The number of physical cores that this process may use, at least 1; None if the system doesn't say.

    It counts the cores of the CPU affinity (taskset, cpuset), up to the quota of the control group (a container's
    limit). Only whole cores of a quota count, because a thread that has used up the quota is stopped, and the others
    wait for it. ``root`` is the folder with /proc and /sys. On macOS it counts the performance cores. Windows gives
    None: there ONNX Runtime counts the physical cores by itself.
    """
    if not hasattr(os, "sched_getaffinity"):
        return _macos_cores() if sys.platform == "darwin" else None
    cores = {_read(root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") or cpu for cpu in
             os.sched_getaffinity(0)}  # fmt: skip
    return max(1, min([len(cores), *(int(quota) for quota in _quotas(root))]))


def _macos_cores() -> int | None:
    """The performance cores of Apple silicon, or all physical cores of an Intel Mac.

    Source: Apple's sysctl names, "Determining System Capabilities". Efficiency cores are left out, because a run waits
    for its slowest thread.
    """
    for name in (b"hw.perflevel0.physicalcpu", b"hw.physicalcpu"):
        value = ctypes.c_int32(0)
        size = ctypes.c_size_t(ctypes.sizeof(value))
        try:
            failed = ctypes.CDLL(None).sysctlbyname(name, ctypes.byref(value), ctypes.byref(size), None, 0)
        except (OSError, AttributeError):
            return None
        if not failed and value.value > 0:
            return value.value
    return None


def _quotas(root: Path) -> Iterator[float]:
    """The number of CPUs by each quota on this process's control group and on the groups that contain it.

    Source: the kernel's Documentation/admin-guide/cgroup-v2.rst, "CPU Interface Files"; scheduler/sched-bwc.rst for v1.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers
        # A container may see its own group as the root, and still get the path that it has outside.
        folder = top / group.lstrip("/")
        for place in (folder, *folder.parents[: len(folder.parts) - len(top.parts)]):
            if controllers:
                quota = [_read(place / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
            else:
                quota = _read(place / "cpu.max").split()
            if len(quota) == 2 and all(part.isdecimal() for part in quota) and int(quota[1]):
                yield int(quota[0]) / int(quota[1])


def _read(path: Path) -> str:
    """The text of a small system file, "" if it is missing."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def available_providers() -> list[str]:
    """The execution providers of the installed runtime, by the names in PROVIDERS, or by its own name for any other."""
    names = {theirs: ours for ours, theirs in PROVIDERS.items()}
    return [names.get(theirs, theirs) for theirs in runtime().get_available_providers()]


def choose_provider(provider: str) -> str:
    """The provider to try first: ``auto`` is CUDA if the runtime has it, else the CPU.

    Raises UsageError for an unknown name, ProviderError if the runtime doesn't have it.
    """
    if provider != "auto" and provider not in PROVIDERS:
        raise UsageError(f"There is no execution provider {provider!r}: use auto, {', '.join(PROVIDERS)}.")
    available = available_providers()
    if provider == "auto":
        return "cuda" if "cuda" in available else "cpu"
    if provider not in available:
        hint = "; for CUDA, pip install onnxruntime-gpu instead of onnxruntime" if provider == "cuda" else ""
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
    data: Path | None = None,
    optimise: bool = True,
) -> onnxruntime.InferenceSession:
    """Load a graph. ``threads`` is the number of threads per text; with None ONNX Runtime uses one per physical core.

    ``data`` is the file with its weights, if it has one, which may be a link. With ``optimise`` False the graph runs as
    it is written, which also loads faster. ``say`` gets a line if ``auto`` found CUDA, could not start it and fell back
    to the CPU.
    Raises UsageError, ProviderError, BundleError.
    """
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}: it must be 1 or more.")
    onnxruntime = runtime()
    chosen = choose_provider(provider)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # Between two runs the threads spin, so that the next run can start at once: for one millisecond instead of the
    # default ten, which would keep a core busy for nothing. Older runtimes don't know this setting and ignore it.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "1000")
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    give = getattr(options, "add_external_initializers_from_files_in_memory", None)
    if data is not None and data.is_symlink() and give is not None:
        # ONNX Runtime refuses a link that leads out of the folder of the graph. What it is given it copies. Runtimes
        # without this call (1.19) follow any link.
        content = data.read_bytes()
        give([data.name], [content], [len(content)])
    order = [PROVIDERS[chosen]] if chosen == "cpu" else [PROVIDERS[chosen], PROVIDERS["cpu"]]
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=order)
    except Exception as error:
        if not raised_by(error, "onnxruntime"):
            raise
        if chosen == "cpu":
            reason = first_line(error)
            raise BundleError(f"ONNX Runtime can't load {graph} ({reason}): export the bundle again.") from error
        if provider != "auto":
            raise ProviderError(f"The execution provider {chosen!r} doesn't start: {first_line(error)}.") from error
        say(f"CUDA doesn't start ({first_line(error)}): running on the CPU.")
        return open_session(graph, "cpu", threads, say, data=data, optimise=optimise)
    if chosen != "cpu" and PROVIDERS[chosen] not in session.get_providers():
        if provider != "auto":
            raise ProviderError(
                f"The execution provider {chosen!r} doesn't start on this machine: check its driver and libraries, "
                "or use --provider cpu."
            )
        say("This ONNX Runtime has CUDA but can't start it (driver or libraries are missing): running on the CPU.")
    return session


class OnnxRuntime(Executor):
    """Graphs in ONNX Runtime, each in a session that is opened when it is first needed.

    ``provider`` is ``auto`` or one of PROVIDERS. ``threads`` is the number of threads per text; None means one per
    physical core that this process may use.

    Raises UsageError or ProviderError; MissingDependencyError if no ONNX Runtime is installed.

    >>> from edge_imdb.runtime.source import Source
    >>> executor = OnnxRuntime(threads=1)
    >>> graph = Source("sentiment", None, None).graph("int8")
    >>> executor.signature(graph).outputs
    {'logits': [1, 2]}
    >>> executor.run(graph, {"input_ids": np.array([[101, 2307, 2143, 102]])})["logits"].shape
    (1, 2)
    """

    def __init__(self, provider: str = "auto", threads: int | None = None) -> None:
        self._arguments = (provider, threads)
        self._asked = provider
        self.threads = usable_cores() if threads is None else threads
        self._sessions: dict[Graph, onnxruntime.InferenceSession] = {}
        self._closed = False
        self._lock = threading.Lock()
        _executors.add(self)

    @property
    def preferred(self) -> str:  # type: ignore[override]
        """``int8`` on a CPU, ``fp32`` on other hardware."""
        return "int8" if choose_provider(self._asked) == "cpu" else "fp32"

    @property
    def provider(self) -> str:  # type: ignore[override]
        """The execution provider in use, by ONNX Runtime's name; before a graph is open, the one to try first."""
        for session in list(self._sessions.values()):
            return str(session.get_providers()[0])
        return PROVIDERS[choose_provider(self._asked)]

    def signature(self, graph: Graph) -> Signature:
        session = self._session(graph)
        inputs, outputs, optional = (
            {node.name: list(node.shape) for node in nodes}
            for nodes in (session.get_inputs(), session.get_outputs(), session.get_overridable_initializers())
        )
        return Signature(inputs, outputs, optional)

    def run(self, graph: Graph, feed: Feed) -> dict[str, NDArray[np.float32]]:
        session = self._session(graph)
        try:
            results = session.run(None, feed)
        except Exception as error:
            if not raised_by(error, "onnxruntime"):
                raise
            raise BundleError(
                f"The graph of {graph.bundle.path} can't read a text of {feed['input_ids'].size} tokens "
                f"({first_line(error)}): export the bundle again."
            ) from error
        return dict(zip([node.name for node in session.get_outputs()], results, strict=True))

    def _session(self, graph: Graph) -> onnxruntime.InferenceSession:
        session = self._sessions.get(graph)
        if session is not None:
            return session
        with self._lock:
            if self._closed:
                raise UsageError("This executor was closed: make a new one.")
            if graph not in self._sessions:
                with graph.opening() as (path, weights):
                    session = open_session(path, self._asked, self.threads, data=weights, optimise=graph.optimise)
                self._sessions[graph] = session
            return self._sessions[graph]

    def close(self) -> None:
        self._closed = True
        self._sessions = {}

    def leave_behind(self) -> None:
        """Called in a new child process after a fork. The threads of the sessions don't exist there.

        Closing such a session would wait for its threads for ever. So the sessions are kept and never closed, and the
        next call opens new ones.
        """
        self._lock = threading.Lock()
        if self.threads == 1:
            # The only thread is the caller's own.
            return
        for session in self._sessions.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._sessions = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return OnnxRuntime, self._arguments


# All executors, so that a child process can repair them after a fork.
_executors: weakref.WeakSet[OnnxRuntime] = weakref.WeakSet()


def _leave_behind() -> None:
    for executor in list(_executors):
        executor.leave_behind()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_behind)
