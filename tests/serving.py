"""edge-imdb serve in a process of its own, as a person starts it, and what its tests say to it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

# Takes a worker some seconds, with ROOM for its answer.
SLOW = {"inputs": "A [MASK] film. " * 32 + "The cast was good. " * 100, "parameters": {"top_k": 100}}
ROOM = ("--max-body", 20_000_000)
LONG = "The cast was good, and so was the script, but after an hour I no longer cared who won. " * 25


class Answer(NamedTuple):
    status: int
    content: Any
    headers: dict[str, str]
    seconds: float


class Server:
    """A running server. ``log`` has its lines so far."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None, cwd: Path | None = None) -> None:
        self.log: list[dict[str, Any]] = []
        self.begun = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edge_imdb", "serve", "--port", "0", *map(str, arguments)],
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            # A shell starts background jobs with SIGINT ignored, and children inherit it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.url = self.wait_for("listening")["url"]
        except BaseException:
            self.process.kill()
            raise
        self.port = int(self.url.rsplit(":", 1)[1])

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            try:
                self.log.append(json.loads(line))
            except ValueError:
                self.log.append({"event": "no JSON", "line": line})

    def wait_for(self, event: str, seconds: float = 30) -> dict[str, Any]:
        """The first line of ``event``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = next((line for line in self.log if line["event"] == event), None)
            if found is not None:
                return found
            if self.process.poll() is not None:
                self._reader.join(1)
                if not any(line["event"] == event for line in self.log):
                    raise AssertionError(f"the server ended: {self.log[-5:]}")
            time.sleep(0.005)
        raise AssertionError(f"no {event} within {seconds} s: {self.log[-5:]}")

    def request(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 60
    ) -> Answer:
        """One request on a connection of its own; a ``body`` that isn't bytes is sent as JSON."""
        if body is not None and not isinstance(body, (bytes, Iterator)):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        start = time.monotonic()
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        kind = response.headers.get("content-type", "")
        content = json.loads(data) if kind.startswith("application/json") else data.decode()
        return Answer(response.status, content, dict(response.headers.items()), time.monotonic() - start)

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        return self.request("POST", path, body, **options)

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def raw(self, data: bytes, timeout: float = 10) -> bytes:
        """Send bytes, and read until the server closes or is silent for half a second."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            received = b""
            with contextlib.suppress(ConnectionError, TimeoutError):
                while part := connection.recv(65536):
                    received += part
                    connection.settimeout(0.5)
            return received

    def metric(self, line: str) -> float:
        """The value of a line of /metrics, 0 if it isn't there."""
        for found in self.get("/metrics").content.splitlines():
            if found.startswith(line + " "):
                return float(found.rsplit(" ", 1)[1])
        return 0.0

    def memory(self) -> float:
        """MiB of the process in memory."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))

    def occupy(self, pool: ThreadPoolExecutor, body: Any = SLOW) -> Future[Answer]:
        """Give a worker something slow to do, and wait until it runs."""
        future = pool.submit(self.post, "/models/fill-mask", body)
        while self.metric("edge_imdb_running_texts") < 1:
            assert not future.done(), future.result()
            time.sleep(0.005)
        return future

    def stop(self, number: int = signal.SIGTERM, timeout: float = 40) -> int:
        """End it; its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code


@contextlib.contextmanager
def serving(*arguments: object, **options: Any) -> Iterator[Server]:
    """A server that is ready, and ended afterwards."""
    server = Server(*arguments, **options)
    try:
        server.wait_for("ready")
        yield server
    finally:
        server.process.kill()
        server.stop()


class InProcess:
    """The server's application without a process or a socket, for tests of what it answers.

    ``models`` has the open model of each task, which the caller owns; the options are those of ``make_app``.
    """

    def __init__(self, models: dict[str, Any], **options: Any) -> None:
        from edge_imdb.serve.app import make_app
        from edge_imdb.serve.limits import Limits
        from edge_imdb.serve.log import Log
        from edge_imdb.serve.state import State

        lines: list[dict[str, Any]] = []
        self.log = lines

        class Kept(Log):
            def __call__(self, event: str, **values: Any) -> None:
                lines.append({"event": event, **values})

        self.state = State(tuple(models), options.pop("limits", Limits()), log=Kept())
        self.state.models = dict(models)
        self.app = make_app(self.state, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.ready()

    def ready(self) -> None:
        from edge_imdb.serve.tokens import QUEUE, SECONDS
        from edge_imdb.serve.work import Work

        async def start() -> Work:
            return Work(1, 60.0, {**dict.fromkeys(self.state.models, 0.01), QUEUE: SECONDS})

        self.state.work = asyncio.run_coroutine_threadsafe(start(), self._loop).result(10)

    def close(self) -> None:
        if self.state.work is not None:
            self.state.work.close(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def request(
        self,
        method: str,
        path: str,
        body: Any = b"",
        headers: dict[str, str] | None = None,
        client: str = "192.0.2.1",
    ) -> Answer:
        """One request, as uvicorn hands it over; a ``body`` that isn't bytes is sent as JSON."""
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        target, _, query = path.partition("?")
        given = {"host": "server.test:8000", **{name.lower(): value for name, value in (headers or {}).items()}}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": urllib.parse.unquote(target),
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.encode(), value.encode("latin-1")) for name, value in given.items()],
            "client": (client, 50000),
            "server": ("127.0.0.1", 8000),
        }
        sent: list[dict[str, Any]] = []

        async def run() -> None:
            messages = [{"type": "http.request", "body": body, "more_body": False}]
            over = asyncio.Event()

            async def receive() -> dict[str, Any]:
                if messages:
                    return messages.pop()
                await over.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            await self.app(scope, receive, send)
            over.set()

        start = time.monotonic()
        asyncio.run_coroutine_threadsafe(run(), self._loop).result(60)
        data = b"".join(message.get("body", b"") for message in sent[1:])
        found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        is_json = found.get("content-type", "").startswith("application/json") and data
        content = json.loads(data) if is_json else data.decode()
        return Answer(sent[0]["status"], content, found, time.monotonic() - start)

    def post(self, path: str, body: Any, **options: Any) -> Answer:
        return self.request("POST", path, body, **options)

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)
