"""serve: the server from its start to the end of its drain."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn

from .. import __version__
from ..errors import EdgeImdbError, UsageError
from ..runtime.options import RuntimeOptions
from ..runtime.session import usable_cores
from ..tasks import TASKS
from .app import make_app
from .limits import Limits
from .log import Forward
from .protocol import connection_class
from .state import State
from .unlocked import Unlocked
from .work import Work

# For this many seconds, requests that were sent before the signal, but not yet read, are still taken.
_GRACE = 0.1


@dataclass(frozen=True)
class ServeOptions:
    """Where the server listens, whom it answers, and what it opens. Raises UsageError."""

    host: str = "127.0.0.1"
    port: int = 8000
    tasks: tuple[str, ...] = tuple(TASKS)
    # The bundle of each task; a task that is missing here gets its default bundle.
    models: Mapping[str, str | Path | None] = field(default_factory=dict)
    precision: str = "auto"
    provider: str = "auto"
    exact: bool = False
    workers: int | None = None
    api_key: str | None = None
    insecure: bool = False
    open_metrics: bool = False
    cors_origins: tuple[str, ...] = ()
    access_log: bool = True

    def __post_init__(self) -> None:
        if self.api_key is not None and not self.api_key.strip():
            raise UsageError("--api-key is empty: give a key, or leave it out.")
        if self.workers is not None and self.workers < 1:
            raise UsageError(f"--workers is {self.workers}: it must be 1 or more.")


def serve(options: ServeOptions, limits: Limits) -> None:
    """Answer requests until SIGTERM or SIGINT, then finish those in flight.

    Raises UsageError if the address can't be used, KeyboardInterrupt after SIGINT, and the errors of Sentiment and
    FillMask if a bundle can't be opened. A second signal ends the program at once.
    """
    listener = _bind(options)
    _allow_connections(limits.max_connections)
    state = State(options.tasks, limits)
    server = _Server(options, state, listener)
    server.run([listener])
    drained = state.work is None or state.work.close(1.0)
    if server.error is not None:
        raise server.error
    state.log("stopped", drained=drained)
    if not drained:
        # A thread is still within ONNX Runtime, which must not be taken down around it.
        sys.stderr.flush()
        os._exit(1)
    if server.signal == signal.SIGINT:
        raise KeyboardInterrupt


class _Server(uvicorn.Server):
    """uvicorn's server, with our signals and our drain."""

    def __init__(self, options: ServeOptions, state: State, listener: socket.socket) -> None:
        self.options = options
        self.state = state
        self.listener = listener
        self.error: EdgeImdbError | None = None
        self.signal: int | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._begun = time.perf_counter()
        limits = state.limits
        logger = logging.getLogger("uvicorn")
        logger.handlers, logger.propagate = [Forward(state.log)], False
        app = make_app(state, options.api_key, options.open_metrics, options.cors_origins, options.access_log)
        super().__init__(
            uvicorn.Config(
                app,
                http=connection_class(limits, state.metrics.refused),
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                timeout_keep_alive=limits.keep_alive,  # type: ignore[arg-type]
                timeout_graceful_shutdown=1,
                h11_max_incomplete_event_size=limits.max_headers,
            )
        )
        gauge = state.metrics.gauge
        gauge("ready", "1 once the models are loaded, until the server drains.", self._ready)
        gauge("connections", "Open connections.", lambda: len(self.server_state.connections))
        gauge("queue_texts", "Texts that wait or run.", lambda: sum(state.work.texts.values()) if state.work else 0)
        gauge("queue_seconds", "Seconds until they are done.", lambda: state.work.wait if state.work else 0)
        gauge("running_texts", "Texts that run.", lambda: state.work.running if state.work else 0)

    def _ready(self) -> float:
        return float(self.state.ready and not self.state.stopping)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._on_exception)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal, number)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._tasks.append(asyncio.create_task(self._load()))

    async def _load(self) -> None:
        state, options = self.state, self.options
        host, port = self.listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        state.log("listening", url=url, version=__version__, pid=os.getpid())
        try:
            # Each in a thread, so that /health answers meanwhile.
            seconds = await asyncio.gather(*(asyncio.to_thread(self._open, task) for task in state.tasks))
        except EdgeImdbError as error:
            self.error = error
            self.should_exit = True
            return
        workers = options.workers or usable_cores() or os.cpu_count() or 1
        mean = dict(zip(state.tasks, seconds, strict=True))
        state.work = Work(workers, state.limits.max_wait, mean, state.metrics.text)
        took = round(time.perf_counter() - self._begun, 2)
        state.log("ready", url=url, seconds=took, workers=workers, tasks=state.tasks)

    def _open(self, task: str) -> float:
        """Open the model of ``task``; the seconds that a text takes it."""
        options, kind = self.options, TASKS[task]
        # One thread per text: with more, the workers would take the cores from each other.
        runtime = RuntimeOptions(
            options.models.get(task), precision=options.precision, provider=options.provider, threads=1
        )
        behaviour = {"exact": True} if options.exact and "exact" in kind.behaviour else {}
        model = self.state.models[task] = kind.open(runtime, **behaviour)
        model.wrap_tokenizer(Unlocked)
        text = kind.http.sample
        times = []
        # The first run allocates and is slower; a third would only delay being ready.
        for _ in range(2):
            start = time.perf_counter()
            model(text)
            times.append(time.perf_counter() - start)
        return min(times)

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        # A client that went away while it was answered is not a failure.
        if isinstance(error, BaseException) and not isinstance(error, ConnectionError):
            self.state.log.failure("event loop", error)

    def _on_signal(self, number: int) -> None:
        if self.signal is not None:
            self.state.log("killed", signal=number, lost=self.state.active)
            os._exit(128 + number)
        self.signal = number
        self.state.stopping = True
        self.state.log("draining", signal=number, requests=self.state.active)
        self._tasks.append(asyncio.create_task(self._drain()))

    async def _drain(self) -> None:
        state = self.state
        await asyncio.sleep(_GRACE)
        state.draining = True
        end = time.monotonic() + state.limits.drain
        while state.active and time.monotonic() < end:
            await asyncio.sleep(0.02)
        if state.active:
            state.log("drain ended", lost=state.active)
            self._cut()
        self.should_exit = True

    def _cut(self) -> None:
        """Close the connections that wait for an answer: uvicorn would let them have it for another second."""
        self.config.timeout_graceful_shutdown = 0
        connections: list[Any] = list(self.server_state.connections)
        for connection in connections:
            if connection.cycle is not None and not connection.cycle.response_complete:
                connection.transport.close()


def _bind(options: ServeOptions) -> socket.socket:
    """A socket bound to the address. Raises UsageError."""
    try:
        found = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
    except (OSError, UnicodeError):
        raise UsageError(
            f"{options.host!r} is not an address of this machine: use 127.0.0.1 or another that is."
        ) from None
    local = ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback
    if not local and options.api_key is None and not options.insecure:
        raise UsageError(
            f"{options.host} can be reached from other machines: give --api-key, or --insecure to answer anyone."
        )
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise UsageError(
            f"{options.host} port {options.port} can't be used ({error.strerror}): choose another --port or --host."
        ) from None
    return listener


def _allow_connections(count: int) -> None:
    """Let this process open that many connections, as far as the system allows it. Raises UsageError if it doesn't."""
    try:
        import resource
    except ImportError:
        return
    needed = count + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in (resource.RLIM_INFINITY,) or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise UsageError(f"--max-connections is {count}, but this process may open {hard} files: see ulimit -n.")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
