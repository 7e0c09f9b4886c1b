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
import warnings
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
from .access import checked_key, checked_origin
from .app import make_app
from .limits import Limits
from .log import Forward
from .protocol import connection_class
from .proxy import LOCAL, Trusted, checked_root_path
from .state import State
from .tokens import QUEUE, SECONDS
from .unlocked import Unlocked
from .work import Work

# For this many seconds after the signal, the server still takes requests, because clients may have sent them before.
_GRACE = 0.1


@dataclass(frozen=True)
class ServeOptions:
    """The address that the server listens on, the clients that it answers, and the bundles that it opens.

    ``api_key``, ``cors_origins`` and ``root_path`` are kept in the form in which requests have them. Raises UsageError.

    >>> ServeOptions(api_key="secret\\n", cors_origins=("https://Example.org/",)).cors_origins
    ('https://example.org',)
    """

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
    root_path: str = ""
    forwarded_allow_ips: str = LOCAL

    def __post_init__(self) -> None:
        checked = {
            "api_key": None if self.api_key is None else checked_key(self.api_key),
            "cors_origins": tuple(checked_origin(origin) for origin in self.cors_origins),
            "root_path": checked_root_path(self.root_path),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        Trusted(self.forwarded_allow_ips)
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
    with warnings.catch_warnings():
        # A warning may quote a text, which must not get into the log.
        warnings.simplefilter("ignore")
        server.run([listener])
    drained = state.work is None or state.work.close(1.0)
    if server.error is not None:
        raise server.error
    state.log("stopped", drained=drained)
    if not drained:
        # A thread is still inside ONNX Runtime, which would crash if Python unloaded it now.
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
        app = make_app(
            state,
            options.api_key,
            options.open_metrics,
            options.cors_origins,
            options.access_log,
            options.root_path,
            Trusted(options.forwarded_allow_ips),
        )
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
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGBREAK"):
            # Ctrl-Break, which is how another program asks one on Windows to end.
            numbers.append(signal.SIGBREAK)
        for number in numbers:
            try:
                loop.add_signal_handler(number, self._on_signal, number)
            except NotImplementedError:
                # Windows. uvicorn's loop wakes up ten times a second, so it sees the call soon.
                signal.signal(number, lambda number, frame: loop.call_soon_threadsafe(self._on_signal, number))
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
            # In threads, so that /health answers meanwhile.
            seconds = await asyncio.gather(*(asyncio.to_thread(self._open, task) for task in state.tasks))
        except EdgeImdbError as error:
            self.error = error
            self.should_exit = True
            return
        workers = options.workers or usable_cores() or os.cpu_count() or 1
        mean = dict(zip((*state.tasks, QUEUE), (*seconds, SECONDS), strict=True))
        state.work = Work(workers, state.limits.max_wait, mean, state.metrics.text)
        took = round(time.perf_counter() - self._begun, 2)
        state.log("ready", url=url, seconds=took, workers=workers, tasks=state.tasks)

    def _open(self, task: str) -> float:
        """Open the model of ``task``, and return the seconds that it takes for a text."""
        options, kind = self.options, TASKS[task]
        # One thread per text: with more, the workers would take the cores from each other.
        runtime = RuntimeOptions(
            options.models.get(task), precision=options.precision, provider=options.provider, threads=1
        )
        behaviour = {"exact": True} if options.exact and kind.takes("exact") else {}
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
        # A client that closes its connection during the answer is no failure of the server.
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
        """Close the connections that wait for an answer at once. uvicorn would give them another second."""
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
            f"{options.host!r} is not an address of this machine: use 127.0.0.1, or an address that the machine has."
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
    """Raise the limit of open files to what ``count`` connections need. Raises UsageError if the system forbids it."""
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
