"""OnRay: the model in actors of a Ray cluster, texts sent there and labels back.

The driver reads and writes, so no node needs the inputs or the output's folder, no actor can leave a half-written part
behind, and parts have the bytes of a local run. Actors take one CPU each and need nothing else of the cluster: Ray
Data's own reader and writer want further CPUs, and wait forever if actors have taken all of them.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..data.tables import require
from ..errors import BundleError, EdgeImdbError, MissingDependencyError, OutputError, UsageError, first_line
from ..output import locked, staging
from ..runtime.bundle import find_bundle
from .labels import Options, Outcome, bundle_files, bundle_sha256
from .local import windows
from .teacher import is_teacher, open_labeller, teacher_files, teacher_sha256

# Texts per call: half a second of work, so that all actors finish together and a lost actor loses little.
_CHUNK = 32
# Calls per actor, running and queued; and calls per actor that may finish ahead of the next result in order.
_QUEUE = 2
_AHEAD = 6
# After this many actors died on the same texts, the texts are to blame.
_DEATHS = 4
_PATIENCE = 30.0


@dataclass
class _Chunk:
    number: int
    texts: list[str | None]
    deaths: int = 0


class OnRay:
    """``map`` labels texts on ``workers`` actors and yields the outcomes in order; a lost actor's go to the others.

    ``address`` is ``auto`` (the cluster that runs here or $RAY_ADDRESS names), ``local`` (one of this machine alone,
    for this job), or an address. ``identity`` is what every actor's model must be.
    Raises MissingDependencyError if Ray isn't installed, UsageError if there is no such cluster.
    """

    def __init__(
        self,
        address: str,
        options: Options,
        identity: dict[str, Any],
        workers: int | None,
        say: Callable[[str], None] | None,
        window: int | None = None,
        part_rows: int = 1,
    ) -> None:
        self._window, self._part_rows = window, part_rows
        try:
            ray = require("ray", "ray", "--ray")
        except MissingDependencyError:
            raise MissingDependencyError(
                "--ray needs Ray, which is not installed: pip install 'edge-imdb[ray]'"
            ) from None
        self._ray, self._say = ray, say or (lambda line: None)
        self._started = not ray.is_initialized()
        if self._started:
            # Silence Ray's messages for cluster operators; lost actors are reported below.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            try:
                _knock(address)
                ray.init(
                    address=None if address == "local" else address,
                    log_to_driver=False,
                    logging_level="error",
                    **({"include_dashboard": False} if address == "local" else {}),
                )
            except (OSError, ValueError, RuntimeError) as error:
                reason = first_line(error)
                raise UsageError(
                    f"There is no Ray cluster at {address!r} ({reason}): start one with `ray start --head`, give its "
                    "address, or use --ray local."
                ) from None
        resources = ray.available_resources()
        gpus = gpus_of_actor(window, resources)
        free = int(resources["GPU"]) if gpus else int(resources.get("CPU", 0)) - 1
        count = workers or max(free, 1)
        # In a list, so that Ray passes the reference and nodes that have the bundle don't fetch it. The attribute keeps
        # the object alive for restarted actors.
        self._bundle = bundle = [ray.put(model_files(options))]
        actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=0)(_Actor)
        self._actors = [actor.remote(options, identity, bundle) for _ in range(count)]

    def map(self, texts: Iterable[str | None]) -> Iterator[Outcome]:
        """Raises EdgeImdbError if no actor can load the model, or if the same texts end one actor after another."""
        ray = self._ray
        actor_error, task_error = ray.exceptions.RayActorError, ray.exceptions.RayTaskError
        chunks = chunked(texts, self._window, self._part_rows)
        again: deque[_Chunk] = deque()
        flying: dict[Any, tuple[int, _Chunk]] = {}
        starting = {actor.ready.remote(): index for index, actor in enumerate(self._actors)}
        load: dict[int, int] = {}
        done: dict[int, list[Outcome]] = {}
        issued = told = 0
        ended, patience, failure = False, time.monotonic() + _PATIENCE, ""
        while True:
            while load and min(load.values()) < _QUEUE:
                if again:
                    chunk = again.popleft()
                elif not ended and issued - told < _AHEAD * len(self._actors):
                    some = next(chunks, None)
                    if some is None:
                        ended = True
                        break
                    chunk, issued = _Chunk(issued, some), issued + 1
                else:
                    break
                index = min(load, key=lambda each: load[each])
                load[index] += 1
                flying[self._actors[index].label.remote(chunk.texts)] = (index, chunk)
            if ended and not flying and not again:
                return
            if not load and not starting:
                raise EdgeImdbError(f"No actor could load the model: {failure or 'the cluster started none'}.")
            ready, _ = ray.wait([*flying, *starting], num_returns=1, timeout=1.0)
            if not load and time.monotonic() > patience:
                patience = time.monotonic() + _PATIENCE
                self._say("Waiting for a free CPU in the Ray cluster.")
            for reference in ready:
                if reference in starting:
                    index = starting.pop(reference)
                    try:
                        ray.get(reference)
                        load[index] = sum(each == index for each, _ in flying.values())
                    except (actor_error, task_error) as error:
                        failure = _reason(error)
                    continue
                index, chunk = flying.pop(reference)
                try:
                    done[chunk.number] = [Outcome(*each) for each in ray.get(reference)]
                    if index in load:
                        load[index] -= 1
                except actor_error as error:
                    # The actor or its node is gone. Ray restarts it, and other actors take its texts.
                    again.append(_Chunk(chunk.number, chunk.texts, chunk.deaths + 1))
                    if chunk.deaths + 1 >= _DEATHS:
                        raise EdgeImdbError(
                            f"{_DEATHS} actors died on the same {len(chunk.texts)} texts ({_reason(error)}): "
                            "run without --ray to find the cause."
                        ) from None
                    if load.pop(index, None) is not None:
                        self._say("An actor was lost: its texts go to other actors.")
                        starting[self._actors[index].ready.remote()] = index
                except task_error as error:
                    raise EdgeImdbError(f"An actor failed: {_reason(error)}.") from None
            while told in done:
                outcomes = done.pop(told)
                told += 1
                yield from outcomes

    def close(self) -> None:
        for actor in self._actors:
            with contextlib.suppress(Exception):
                self._ray.kill(actor)
        if self._started:
            self._ray.shutdown()


def chunked(texts: Iterable[str | None], window: int | None, part_rows: int) -> Iterator[list[str | None]]:
    """The texts of each call: ``window`` of them for a teacher, which batches them, and 32 for a bundle.

    >>> [len(chunk) for chunk in chunked(["Fine."] * 70, None, 40)]
    [32, 32, 6]
    >>> [len(chunk) for chunk in chunked(["Fine."] * 70, 30, 40)]
    [30, 10, 30]
    """
    source = iter(texts)
    return windows(source, part_rows, window) if window else iter(lambda: list(itertools.islice(source, _CHUNK)), [])


def gpus_of_actor(window: int | None, resources: Mapping[str, float]) -> int:
    """GPUs for each actor: 1 for a teacher if the cluster has a free GPU, otherwise 0.

    >>> gpus_of_actor(256, {"CPU": 8.0, "GPU": 2.0}), gpus_of_actor(256, {"CPU": 8.0})
    (1, 0)
    >>> gpus_of_actor(None, {"CPU": 8.0, "GPU": 2.0})
    0
    """
    return int(window is not None and resources.get("GPU", 0) >= 1)


def model_files(options: Options) -> dict[str, bytes]:
    """Every file of the bundle or the teacher that ``options`` name, by its name."""
    if options.runtime.model is not None and is_teacher(folder := Path(options.runtime.model)):
        return {path.name: path.read_bytes() for path in teacher_files(folder)}
    return bundle_files(options)


def model_sha256(folder: Path) -> str:
    """The hash of a bundle or of a teacher."""
    return teacher_sha256(folder) if is_teacher(folder) else bundle_sha256(folder)


def _knock(address: str) -> None:
    """Raise OSError at once if nothing listens at HOST:PORT; Ray would retry for half a minute."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), 5).close()


def _reason(error: BaseException) -> str:
    """The message of an EdgeImdbError that Ray has wrapped."""
    cause = getattr(error, "cause", None)
    lines = str(cause or error).strip().splitlines() or [type(error).__name__]
    ours = [line for line in lines if "edge_imdb.errors." in line or "Error: " in line]
    return (ours[-1].split("Error: ", 1)[-1] if ours else lines[0]).strip().rstrip(".")


class _Actor:
    """A loaded model on a node."""

    def __init__(self, options: Options, identity: dict[str, Any], bundle: list[Any]) -> None:
        import ray

        wanted = identity["bundle"]
        path = find_bundle(options.task, options.runtime.model)[0]
        try:
            here = model_sha256(path) == wanted
        except (OSError, ValueError, KeyError):
            here = False
        if not here:
            folder = str(_unpacked(wanted, lambda: ray.get(bundle[0])))
            options = replace(options, runtime=replace(options.runtime, model=folder))
        self._labeller = open_labeller(options)
        mine = self._labeller.identity()
        if mine != identity:
            differ = [key for key in identity if mine.get(key) != identity[key]]
            raise BundleError(
                f"A node has {', '.join(f'{key} {mine.get(key)}' for key in differ)}, but the driver has "
                f"{', '.join(f'{key} {identity[key]}' for key in differ)}: install the same on all nodes."
            )

    def ready(self) -> None:
        pass

    def label(self, texts: list[str | None]) -> list[tuple[Any, str | None]]:
        return [tuple(outcome) for outcome in self._labeller.label_all(texts)]  # type: ignore[misc]


def _unpacked(sha256: str, fetch: Callable[[], dict[str, bytes]]) -> Path:
    """The bundle in a folder of this node, written by the first actor that needs it."""
    folder = Path(tempfile.gettempdir(), f"edge-imdb-bundle-{sha256[:32]}")
    for _ in range(600):
        if folder.is_dir():
            return folder
        try:
            with locked(folder), staging(folder) as staged:
                for name, data in fetch().items():
                    (staged / name).parent.mkdir(parents=True, exist_ok=True)
                    (staged / name).write_bytes(data)
        except OutputError as error:
            if "Another process" not in str(error):
                raise
            time.sleep(0.1)
    raise OutputError(f"{folder} couldn't be written: another process has been writing it for a minute.")
