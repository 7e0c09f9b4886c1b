"""edge-imdb serve under wrong, slow, huge and too many requests, clients that go away, and signals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from serving import LONG, ROOM, Server, serving

# Short deadlines, so that the tests needn't wait ten seconds; one worker, so that one request occupies it.
SHORT = ("--header-timeout", 1, "--body-timeout", 1, "--workers", 1)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(*SHORT) as running:
        yield running
        # Whatever the tests of this file did to it, it still answers, and nothing ended in a failure.
        assert running.post("/", {"inputs": "great film"}).status == 200
        assert [line for line in running.log if line["event"] in ("failure", "no JSON")] == []


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


WRONG_BODIES: dict[str, tuple[str, bytes]] = {
    "empty": ("/", b""),
    "half": ("/", b'{"inputs": "a'),
    "no JSON": ("/", b"inputs=great"),
    "UTF-16 cut": ("/", "{}".encode("utf-16")[:-1]),
    "no UTF-8": ("/", b'{"inputs": "\xff\xfe"}'),
    "NUL": ("/", b"\x00" * 16),
    "a list": ("/", b'["great film"]'),
    "null": ("/", b"null"),
    "a number": ("/", b"1"),
    "nested": ("/", b'{"inputs": ' + b"[" * 200_000),
    "nested and closed": ("/", b'{"inputs": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"),
    "a long number": ("/", b'{"inputs": ' + b"9" * 10_000 + b"}"),
    "an infinite number": ("/", b'{"inputs": "a", "parameters": {"top_k": 1e999}}'),
    "NaN": ("/", b'{"inputs": NaN}'),
    "NaN in parameters": ("/", b'{"inputs": "a", "parameters": {"top_k": NaN}}'),
    "inputs missing": ("/", dumped({"input": "a"})),
    "inputs null": ("/", dumped({"inputs": None})),
    "inputs a number": ("/", dumped({"inputs": 1})),
    "inputs an object": ("/", dumped({"inputs": {"text": "a", "text_pair": "b"}})),
    "inputs no texts": ("/", dumped({"inputs": []})),
    "inputs a list of numbers": ("/", dumped({"inputs": ["a", 1]})),
    "inputs blank": ("/", dumped({"inputs": " \x00\n"})),
    "inputs half a character": ("/", b'{"inputs": "\\ud800"}'),
    "parameters a list": ("/", dumped({"inputs": "a", "parameters": [1]})),
    "parameters a text": ("/", dumped({"inputs": "a", "parameters": "top_k"})),
    "top_k a string": ("/", dumped({"inputs": "a", "parameters": {"top_k": "2"}})),
    "top_k 1.5": ("/", dumped({"inputs": "a", "parameters": {"top_k": 1.5}})),
    "top_k 0": ("/", dumped({"inputs": "a", "parameters": {"top_k": 0}})),
    "top_k a boolean": ("/", dumped({"inputs": "a", "parameters": {"top_k": True}})),
    "top_k of 5,000 digits": ("/", b'{"inputs": "a", "parameters": {"top_k": ' + b"-" + b"9" * 4000 + b"}}"),
    "function unknown": ("/", dumped({"inputs": "a", "parameters": {"function_to_apply": "tanh"}})),
    "function a list": ("/", dumped({"inputs": "a", "parameters": {"function_to_apply": []}})),
    "no mask": ("/models/fill-mask", dumped({"inputs": "a"})),
    "too many masks": ("/models/fill-mask", dumped({"inputs": "[MASK] " * 33})),
    "masks as entities": ("/models/fill-mask", dumped({"inputs": "&#91;MASK] " * 33})),
    "targets a number": ("/models/fill-mask", dumped({"inputs": "[MASK]", "parameters": {"targets": 1}})),
    "targets a list of lists": ("/models/fill-mask", dumped({"inputs": "[MASK]", "parameters": {"targets": [[]]}})),
    "targets without a word": ("/models/fill-mask", dumped({"inputs": "[MASK]", "parameters": {"targets": [""]}})),
    "targets half a character": (
        "/models/fill-mask",
        b'{"inputs": "[MASK]", "parameters": {"targets": ["\\ud800"]}}',
    ),
    "a huge answer": (
        "/models/fill-mask",
        dumped({"inputs": "[MASK] " * 32 + "a" * 90_000, "parameters": {"top_k": 100}}),
    ),
    "a batch with a text in it": ("/predict", dumped({"inputs": [["a"], "b"]})),
    "explain no text": ("/explain", dumped({"inputs": [" "]})),
    "tokenize nothing": ("/tokenize", dumped({"inputs": ["a", ""]})),
    "tokenize half a character": ("/tokenize", b'{"inputs": "\\ud800"}'),
    "tokenize 33 texts": ("/tokenize", dumped({"inputs": ["a"] * 33})),
    "decode nothing": ("/decode", dumped({"ids": []})),
    "decode nothing in a list": ("/decode", dumped({"ids": [[101], []]})),
    "decode a text": ("/decode", dumped({"ids": "101"})),
    "decode a number out of range": ("/decode", dumped({"ids": [30_522]})),
    "decode a number below 0": ("/decode", dumped({"ids": [-1]})),
    "decode a boolean": ("/decode", dumped({"ids": [True]})),
    "decode lists of lists": ("/decode", dumped({"ids": [[[101]]]})),
    "decode 33 lists": ("/decode", dumped({"ids": [[101]] * 33})),
    "decode 100,001 ids": ("/decode", dumped({"ids": [101] * 100_001})),
    "three texts": ("/predict", dumped({"inputs": ["a", "b", "c"]})),
    "raw_scores a string": ("/predict", dumped({"inputs": "a", "raw_scores": "yes"})),
    "direction unknown": ("/predict", dumped({"inputs": "a", "truncation_direction": "up"})),
    "33 texts": ("/", dumped({"inputs": ["a"] * 33})),
    "33 texts in a batch": ("/predict", dumped({"inputs": [["a"]] * 33})),
    "a text of 100,001 characters": ("/", dumped({"inputs": "a" * 100_001})),
    "a text of 1.9 MB": ("/", dumped({"inputs": "é" * 950_000})),
    "a body of 2 MB and more": ("/", dumped({"inputs": "a" * 2_000_000})),
}


@pytest.mark.parametrize("name", WRONG_BODIES)
def test_a_wrong_body_is_refused_in_a_sentence(server: Server, name: str) -> None:
    path, body = WRONG_BODIES[name]
    found = server.post(path, body)
    assert found.status in (400, 413, 422), found
    sentence = found.content["error"]
    assert found.content.keys() == {"error", "error_type"}
    assert sentence[0].isupper() or sentence.split()[0].isidentifier(), sentence
    assert 20 < len(sentence) < 300 and "\n" not in sentence


def request(head: str, body: bytes = b"") -> bytes:
    return f"{head}\r\n\r\n".encode("latin-1") + body


WRONG_HTTP = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000001fc0303") + b"\x00" * 64 + b"\r\n\r\n",
    "no Host": request("GET /health HTTP/1.1"),
    "another major version": request("GET / HTTP/x.1\r\nHost: x"),
    "two lengths": request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2", b"{}"),
    "a negative length": request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1"),
    "a length of 30 digits": request(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {'9' * 30}"),
    "a header without a colon": request("GET / HTTP/1.1\r\nHost: x\r\nnonsense"),
    "a path that is not ASCII": request("GET /caf\xe9 HTTP/1.1\r\nHost: x"),
    "a chunk of no size": request("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked", b"zz\r\n{}\r\n0\r\n\r\n"),
    "headers of 40 KB": request(f"GET /health HTTP/1.1\r\nHost: x\r\nX: {'a' * 40_000}"),
    "headers of 70 KB": request(f"GET /health HTTP/1.1\r\nHost: x\r\nX: {'a' * 70_000}"),
    "a path of 40 KB": request(f"GET /{'a' * 40_000} HTTP/1.1\r\nHost: x"),
    "a method unknown": request("BREW / HTTP/1.1\r\nHost: x"),
    "a length of 100 MB": request("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000", b"a" * 1000),
}


@pytest.mark.parametrize("name", WRONG_HTTP)
def test_what_is_no_request_is_refused_in_json(server: Server, name: str) -> None:
    received = server.raw(WRONG_HTTP[name])
    status = int(received.split(b" ", 2)[1])
    assert 400 <= status < 500, received[:300]
    if "KB" in name:
        assert status == 431
    assert b'{"error":' in received.replace(b'{"error": ', b'{"error":'), received[:300]


def endless(size: int) -> Iterator[bytes]:
    for _ in range(size // 65536):
        yield b"a" * 65536


def test_100_mb_and_bodies_without_end_are_refused_with_flat_memory(server: Server) -> None:
    server.post("/", b"a" * 2_000_000)
    before = server.memory()
    for _ in range(3):
        # The client sends all of it before it reads the answer, as most do.
        assert server.post("/", b"a" * 100_000_000).status == 413
        assert server.post("/", endless(20_000_000)).status == 413
        assert server.post("/", dumped({"inputs": "é" * 900_000})).status == 413
    assert server.memory() < before + 30


def test_expect_100_continue_is_refused_before_the_body(server: Server) -> None:
    head = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\nExpect: 100-continue"
    assert server.raw(request(head)).startswith(b"HTTP/1.1 413")


def drip(server: Server, data: bytes, every: float, parts: int) -> tuple[bytes, float]:
    """Send ``data`` one byte at a time; what came back, and after how many seconds the connection was closed."""
    start = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        with contextlib.suppress(ConnectionError):
            for number in range(parts):
                connection.sendall(data[number : number + 1] or b"a")
                time.sleep(every)
                if time.monotonic() - start > 5:
                    break
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(4096):
                received += part
    return received, time.monotonic() - start


def test_slow_headers_and_bodies_are_closed_and_health_answers_meanwhile(server: Server) -> None:
    """100 connections, half of which send headers and half a body, a byte at a time."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    opened: list[socket.socket] = []
    for number in range(100):
        connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
        connection.sendall(head if number % 2 else head + b"\r\n{")
        opened.append(connection)
    start, slowest = time.monotonic(), 0.0
    while time.monotonic() - start < 0.8:
        for connection in opened:
            connection.sendall(b"a")
        slowest = max(slowest, server.get("/health").seconds)
        time.sleep(0.1)
    left = b""
    for connection in opened:
        while part := connection.recv(4096):
            left += part
        connection.close()
    assert time.monotonic() - start < 2.5
    assert left.count(b"HTTP/1.1 408") == 100
    assert b"The headers took longer than 1 s" in left and b"The body took longer than 1 s" in left
    # 50 ms is the bar of benchmarks/serve.py, on a quiet machine.
    assert slowest < 0.5


def test_a_connection_that_sends_nothing_is_closed_without_a_word(server: Server) -> None:
    received, seconds = drip(server, b"", 0, 0)
    assert (received, seconds < 3) == (b"", True)


def test_an_answer_that_nobody_fetches_is_dropped(server: Server) -> None:
    """A client that asks again and again for a large page and reads nothing of it."""
    ask = b"GET /api-doc/openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        connection.settimeout(0.5)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(20_000):
                connection.sendall(ask * 50)
        end = time.monotonic() + 10
        while server.metric("edge_imdb_connections") > 1:
            assert time.monotonic() < end
            time.sleep(0.1)


def test_no_more_connections_than_allowed() -> None:
    with serving("--task", "sentiment", "--max-connections", 5, "--header-timeout", 2) as few:
        held = [socket.create_connection(("127.0.0.1", few.port)) for _ in range(5)]
        found = few.post("/", {"inputs": "great film"})
        assert (found.status, found.headers["retry-after"]) == (429, "1")
        assert "too many connections" in found.content["error"]
        for connection in held:
            connection.close()
        refused, deadline = 1, time.monotonic() + 30
        # Until the server has seen that they are closed.
        while (status := few.post("/", {"inputs": "great film"}).status) == 429:
            assert time.monotonic() < deadline
            refused += 1
        assert status == 200
        assert few.metric('edge_imdb_requests_total{path="connection",status="429"}') == refused


def test_overload_is_429_with_the_seconds_to_wait_and_the_rest_is_answered() -> None:
    with serving("--workers", 1, "--max-wait", 0.3, *ROOM) as busy, ThreadPoolExecutor(64) as pool:
        first = busy.occupy(pool)
        answers = [future.result() for future in [pool.submit(busy.post, "/", {"inputs": LONG}) for _ in range(60)]]
        assert first.result().status == 200
        taken = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 429]
        assert len(taken) + len(refused) == 60 and refused
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.content["error"] == f"The server is busy: try again in {answer.headers['retry-after']} s."
        # The log has them together, not line by line.
        busy.wait_for("overload", 3)
        assert sum(line.get("turned_away", 0) for line in busy.log) <= len(refused)
        assert busy.metric('edge_imdb_requests_total{path="/",status="429"}') == len(refused)


def test_a_batch_counts_as_its_texts() -> None:
    # On a busy machine the default's 5 s hold fewer texts than these.
    with serving("--workers", 1, "--max-wait", 600, *ROOM) as busy, ThreadPoolExecutor(2) as pool:
        first = busy.occupy(pool)
        # The text of the first, whose masks may take two runs, counts as two.
        assert busy.metric("edge_imdb_queue_texts") == 2
        batch = pool.submit(busy.post, "/predict", {"inputs": [["great film"]] * 31})
        while busy.metric("edge_imdb_queue_texts") != 2 + 31:
            assert not first.done(), "the machine is too slow for this test"
        assert (first.result().status, batch.result().status) == (200, 200)


def test_what_a_client_waits_for_that_went_away_never_runs() -> None:
    texts = 'edge_imdb_text_seconds_count{task="sentiment"}'
    body = dumped({"inputs": [LONG] * 3})
    with serving("--workers", 1, "--max-wait", 100, *ROOM) as server, ThreadPoolExecutor(2) as pool:
        first = server.occupy(pool)
        waiting = []
        for _ in range(20):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(request(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}", body))
            waiting.append(connection)
        while server.metric("edge_imdb_queue_texts") < 2 + 60:
            assert not first.done(), "the machine is too slow for this test"
        for connection in waiting:
            connection.close()
        while server.metric("edge_imdb_queue_texts") > 2:
            assert not first.done(), "the machine is too slow for this test"
        assert first.result().status == 200
        assert server.post("/", {"inputs": "great film"}).status == 200
        assert server.metric(texts) == 1
        assert server.metric("edge_imdb_queue_texts") == 0
        assert server.metric('edge_imdb_requests_total{path="/",status="499"}') == 20


def test_texts_of_a_cancelled_job_never_run_and_are_not_held() -> None:
    """Work alone, where each step can be waited for."""
    from edge_imdb.serve.errors import ClientGone
    from edge_imdb.serve.work import Work

    async def check() -> None:
        begun, release, ran = threading.Event(), threading.Event(), []

        def slow() -> str:
            begun.set()
            release.wait(10)
            return "slow"

        work = Work(1, 5.0, {"a": 0.001})
        first = work.submit("a", [slow, lambda: ran.append("second of the first")], 2)
        gone = work.submit("a", [lambda: ran.append("gone")] * 3, 3)
        last = work.submit("a", [lambda: "last"], 1)
        await asyncio.to_thread(begun.wait, 10)
        assert work.texts["a"] == 6
        work.cancel(gone)
        assert work.texts["a"] == 3 and not gone.calls
        work.cancel(first)
        # The text that runs is waited for, the other one isn't.
        assert work.texts["a"] == 2
        release.set()
        assert await last.future == ["last"]
        for job in (first, gone):
            with pytest.raises(ClientGone):
                await job.future
        assert (ran, work.texts["a"], work.jobs) == ([], 0, set())
        assert work.close(5)

    asyncio.run(check())


def test_the_queue_is_bounded_by_its_wait_and_retry_after_is_the_excess() -> None:
    from edge_imdb.serve.errors import RequestError
    from edge_imdb.serve.work import Work

    async def check() -> None:
        release = threading.Event()
        work = Work(2, 5.0, {"a": 1.0, "b": 0.1})
        jobs = [work.submit("a", [release.wait], 1) for _ in range(10)]
        # 10 texts of 1 s, two at a time: 5 s.
        assert work.wait == 5.0
        for task, weight, seconds in (("a", 1, 1), ("a", 8, 4), ("b", 1, 1), ("b", 400, 20)):
            refused = work.refusal(task, weight)
            assert isinstance(refused, RequestError)
            assert (refused.status, refused.retry_after) == (429, seconds)
        work.cancel(jobs.pop())
        assert work.refusal("a") is None and work.refusal("b", 10) is None
        assert work.refusal("a", 2) is not None
        release.set()
        await asyncio.gather(*(job.future for job in jobs))
        # A request that is alone is taken, however long it takes.
        assert work.refusal("a", 1000) is None
        # The rate follows what was measured.
        assert work.seconds["a"] < 0.9
        work.close(5)

    asyncio.run(check())


class TestSignals:
    """SIGTERM drains; a second signal ends at once."""

    def test_sigterm_answers_all_that_is_in_flight(self) -> None:
        with serving("--workers", 1, "--max-wait", 100, *ROOM) as server, ThreadPoolExecutor(24) as pool:
            # A connection that is kept open mustn't hold it up.
            idle = socket.create_connection(("127.0.0.1", server.port))
            idle.sendall(request("GET /health HTTP/1.1\r\nHost: x"))
            first = server.occupy(pool)
            futures = [pool.submit(server.post, "/", {"inputs": LONG}) for _ in range(19)]
            while server.metric("edge_imdb_queue_texts") < 2 + 19:
                assert not first.done(), "the machine is too slow for this test"
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("draining")
            assert server.get("/health").status == 503
            time.sleep(0.15)
            late = server.post("/", {"inputs": "great film"})
            assert (late.status, late.headers["connection"]) == (503, "close")
            assert [future.result().status for future in [first, *futures]] == [200] * 20
            # Not stop, which would send a second signal.
            assert server.process.wait(30) == 0
            server.wait_for("stopped")
            idle.close()

    def test_a_second_signal_ends_at_once(self) -> None:
        with serving("--workers", 1, *ROOM) as server, ThreadPoolExecutor(2) as pool:
            first = server.occupy(pool)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("draining")
            assert not first.done()
            start = time.monotonic()
            assert server.stop() == 128 + signal.SIGTERM
            assert time.monotonic() - start < 0.5
            with contextlib.suppress(ConnectionError):
                first.result()

    def test_a_drain_that_takes_too_long_is_cut(self) -> None:
        with serving("--workers", 1, "--drain", 0.2, *ROOM) as server, ThreadPoolExecutor(2) as pool:
            first = server.occupy(pool)
            start = time.monotonic()
            code = server.stop()
            assert time.monotonic() - start < 8
            assert any(line["event"] == "drain ended" and line["lost"] == 1 for line in server.log)
            # 1 if a text was still within the runtime.
            assert code in (0, 1)
            with contextlib.suppress(ConnectionError):
                assert first.result().status != 200
