"""A load generator for benchmarks/serve.py, light enough to share the machine with the server that it measures.

    python benchmarks/load.py PORT PATH BODIES --connections 64    closed loop: each sends when it was answered
    python benchmarks/load.py PORT PATH BODIES --rate 400          open loop: so many a second, come what may

BODIES is a JSON list of request bodies, sent in turn. Prints one JSON object: the count, the seconds and, by status,
the milliseconds of every answer within the time. asyncio or httpx would take several times the CPU.
"""

from __future__ import annotations

import argparse
import heapq
import json
import select
import socket
import time
from pathlib import Path

# Open connections at a time in the open loop; beyond that an arrival is lost, and counted.
MOST = 900


class Client:
    """Connections on which requests are sent and answers read, without blocking."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port = port
        self.requests = requests
        self.sent = 0
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.begun: dict[int, float] = {}
        self.parts: dict[int, bytes] = {}
        self.answers: list[tuple[int, float, float]] = []
        self.broken = 0

    def open(self) -> int:
        connection = socket.create_connection(("127.0.0.1", self.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        number = connection.fileno()
        self.sockets[number] = connection
        self.epoll.register(number, select.EPOLLIN)
        return number

    def send(self, number: int, now: float) -> None:
        self.sockets[number].sendall(self.requests[self.sent % len(self.requests)])
        self.sent += 1
        self.begun[number] = now

    def poll(self, timeout: float) -> list[int]:
        """Read what has come; the connections that are free again."""
        free = []
        for number, _ in self.epoll.poll(timeout):
            try:
                data = self.sockets[number].recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                self.close(number)
                continue
            if number in self.parts:
                data = self.parts.pop(number) + data
            head = data.find(b"\r\n\r\n")
            place = data.find(b"content-length: ") if head > 0 else -1
            if place < 0 or len(data) < head + 4 + int(data[place + 16 : data.find(b"\r", place)]):
                self.parts[number] = data
                continue
            now = time.perf_counter()
            self.answers.append((int(data[9:12]), now, now - self.begun.pop(number)))
            if b"connection: close" in data[:head]:
                self.close(number)
            else:
                free.append(number)
        return free

    def close(self, number: int) -> None:
        if self.begun.pop(number, None) is not None:
            self.broken += 1
        self.parts.pop(number, None)
        self.epoll.unregister(number)
        self.sockets.pop(number).close()


def closed_loop(client: Client, connections: int, seconds: float, warm: float) -> tuple[float, float]:
    """Returns when the measured time began and ended."""
    start = time.perf_counter()
    for _ in range(connections):
        client.send(client.open(), time.perf_counter())
    end = start + warm + seconds
    while (now := time.perf_counter()) < end:
        for number in client.poll(end - now):
            client.send(number, time.perf_counter())
    return start + warm, end


def open_loop(client: Client, rate: float, seconds: float, warm: float) -> tuple[float, float]:
    """Arrivals at equal distances. Returns when the measured time began and ended."""
    start = time.perf_counter()
    end = start + warm + seconds
    free: list[int] = []
    due = 0
    while (now := time.perf_counter()) < end:
        while due <= (now - start) * rate:
            due += 1
            if free:
                # The lowest number, so that few connections are in use.
                client.send(heapq.heappop(free), now)
            elif len(client.sockets) < MOST:
                client.send(client.open(), now)
            else:
                client.broken += 1
        for number in client.poll(max(0.0, start + due / rate - time.perf_counter())):
            heapq.heappush(free, number)
    # What was taken in time is waited for, so that its latency counts.
    last = time.perf_counter() + 30
    while client.begun and time.perf_counter() < last:
        client.poll(0.1)
    return start + warm, end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("bodies", type=Path)
    parser.add_argument("--connections", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--warm", type=float, default=1, help="seconds before the measured time")
    options = parser.parse_args()
    requests = []
    for body in json.loads(options.bodies.read_text()):
        data = json.dumps(body).encode()
        head = f"POST {options.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        requests.append(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    client = Client(options.port, requests)
    if options.rate:
        start, end = open_loop(client, options.rate, options.seconds, options.warm)
    else:
        start, end = closed_loop(client, options.connections, options.seconds, options.warm)
    by_status: dict[int, list[float]] = {}
    done: dict[int, int] = {}
    for status, when, seconds in client.answers:
        # Latencies of all that was sent; rates of what came back within the time.
        by_status.setdefault(status, []).append(1000 * seconds)
        done[status] = done.get(status, 0) + (start <= when <= end)
    times = time.process_time()
    print(
        json.dumps(
            {
                "seconds": end - start,
                "sent": client.sent,
                "broken": client.broken,
                "done": done,
                "milliseconds": {status: sorted(values) for status, values in by_status.items()},
                "cpu_seconds": times,
            }
        )
    )


if __name__ == "__main__":
    main()
