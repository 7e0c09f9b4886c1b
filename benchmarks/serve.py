"""edge-imdb serve against its bars: throughput, CPU, overload, slow clients, start, drain, and two other servers.

    python benchmarks/serve.py --data IMDB --json benchmarks/results/serve.json
    python benchmarks/serve.py --data IMDB --part throughput --part overload

``--part`` repeats; without it all parts run. Each part's figures replace those of the JSON file. The load generator
runs on the same machine, so what it takes is part of every rate of a server, and is told beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from command import run_as_command
from machine import describe

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
from serving import LONG, ROOM, Server  # noqa: E402

WORKERS = 2
Figures = dict[str, Any]


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far, and of children that it has."""
    total = 0
    for pid in [process, *children(process)]:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def children(process: int) -> list[int]:
    found: list[int] = []
    for path in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (path / "children").read_text().split()):
            found += [child, *children(child)]
    return found


def memory(process: int) -> float:
    """MiB in memory, of a process and its children; what they share is counted once for each."""
    total = 0.0
    for pid in [process, *children(process)]:
        text = Path(f"/proc/{pid}/status").read_text()
        total += next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))
    return total


def load(port: int, path: str, bodies: Path, **options: float) -> Figures:
    """Run the load generator."""
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    done = subprocess.run(
        [sys.executable, HERE / "load.py", str(port), path, bodies, *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    found: Figures = json.loads(done.stdout)
    return found


def percentile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(share * len(values)))] if values else float("nan")


class Bench:
    """The texts, and where their requests lie."""

    def __init__(self, texts: list[str], folder: Path, seconds: float, python: str) -> None:
        self.texts = texts
        self.folder = folder
        self.seconds = seconds
        self.python = python
        self.bodies = folder / "bodies.json"
        self.bodies.write_text(json.dumps([{"inputs": text} for text in texts]))
        # Where the server itself weighs more.
        self.short = folder / "short.json"
        self.short.write_text(json.dumps([{"inputs": text[:60]} for text in texts]))

    def in_process(self) -> tuple[float, float]:
        """Texts a second of ``stream(workers=2)``, and the milliseconds of CPU for each."""
        code = (
            "import json, sys, time, itertools\n"
            "from edge_imdb import Sentiment\n"
            "texts = [body['inputs'] for body in json.load(open(sys.argv[1]))]\n"
            "model = Sentiment(threads=1)\n"
            "list(model.stream(texts[:20], workers=2))\n"
            "end = time.perf_counter() + float(sys.argv[2]); start, cpu = time.perf_counter(), time.process_time()\n"
            "feed = itertools.takewhile(lambda _: time.perf_counter() < end, itertools.cycle(texts))\n"
            "count = sum(1 for _ in model.stream(feed, workers=2))\n"
            "print(json.dumps([count / (time.perf_counter() - start), 1000 * (time.process_time() - cpu) / count]))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, self.bodies, str(self.seconds)], capture_output=True, text=True, check=True
        )
        rate, cpu = json.loads(done.stdout)
        return rate, cpu

    def measured(self, port: int, pid: int, path: str, bodies: Path | None = None, **options: float) -> Figures:
        """Rate and CPU of a server under load."""
        before = cpu_seconds(pid)
        found = load(port, path, bodies or self.bodies, seconds=self.seconds, **options)
        used = cpu_seconds(pid) - before
        answers = sum(map(len, found["milliseconds"].values()))
        done = found["milliseconds"].get("200", [])
        return {
            "rate": found["done"].get("200", 0) / found["seconds"],
            "cpu_ms": 1000 * used / max(1, answers),
            "p50_ms": percentile(done, 0.5),
            "p99_ms": percentile(done, 0.99),
            "not_200": answers - len(done),
            "broken": found["broken"],
            "generator_cpu_share": found["cpu_seconds"] / found["seconds"],
        }


def throughput(bench: Bench) -> Figures:
    """At 8, 64 and 256 connections, between two runs in the process."""
    rows = []
    server = Server("--workers", WORKERS, "--task", "sentiment", "--max-wait", 60)
    server.wait_for("ready")
    try:
        for connections in (8, 64, 256):
            before = bench.in_process()
            served = bench.measured(server.port, server.process.pid, "/", connections=connections)
            after = bench.in_process()
            rate, cpu = statistics.mean([before[0], after[0]]), statistics.mean([before[1], after[1]])
            rows.append(
                {
                    "connections": connections,
                    "in_process_rates": [before[0], after[0]],
                    "in_process_cpu_ms": cpu,
                    **served,
                    "rate_over_in_process": served["rate"] / rate,
                    "cpu_over_in_process": served["cpu_ms"] / cpu,
                }
            )
            print(json.dumps(rows[-1]), flush=True)
    finally:
        server.stop()
    return {"rows": rows}


def overload(bench: Bench) -> Figures:
    """Twice and ten times the capacity, which is measured before and after."""
    rows = []
    for times in (2, 10):
        server = Server("--workers", WORKERS, "--task", "sentiment")
        server.wait_for("ready")
        try:
            before = bench.measured(server.port, server.process.pid, "/", connections=16)["rate"]
            # The queue, of five seconds, must be full before the measured time begins.
            found = load(server.port, "/", bench.bodies, rate=times * before, seconds=2 * bench.seconds, warm=6)
            time.sleep(1)
            after = bench.measured(server.port, server.process.pid, "/", connections=16)["rate"]
            capacity = statistics.mean([before, after])
            taken, refused = found["milliseconds"].get("200", []), found["milliseconds"].get("429", [])
            rows.append(
                {
                    "times": times,
                    "capacities": [before, after],
                    "offered": found["sent"] / (found["seconds"] + 6),
                    "goodput": found["done"].get("200", 0) / found["seconds"] / capacity,
                    "p50_429_ms": percentile(refused, 0.5),
                    "p99_429_ms": percentile(refused, 0.99),
                    "p99_taken_ms": percentile(taken, 0.99),
                    "taken": len(taken),
                    "refused": len(refused),
                    "other": {s: len(v) for s, v in found["milliseconds"].items() if s not in ("200", "429")},
                    "broken": found["broken"],
                    "generator_cpu_share": found["cpu_seconds"] / (found["seconds"] + 6),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
        finally:
            server.stop()
    return {"rows": rows}


def slow_clients(bench: Bench) -> Figures:
    """100 connections that send a byte every half second, half of them headers and half a body."""
    with_server = Server("--task", "sentiment")
    with_server.wait_for("ready")
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
    opened = []
    try:
        start = time.monotonic()
        for number in range(100):
            connection = socket.create_connection(("127.0.0.1", with_server.port))
            connection.sendall(head if number % 2 else head + b"\r\n{")
            connection.setblocking(False)
            opened.append(connection)
        health: list[float] = []
        gone: list[float] = []
        while opened and time.monotonic() - start < 30:
            for connection in list(opened):
                try:
                    connection.sendall(b"a")
                    while connection.recv(4096):
                        pass
                    raise ConnectionResetError
                except BlockingIOError:
                    continue
                except ConnectionError:
                    gone.append(time.monotonic() - start)
                    opened.remove(connection)
                    connection.close()
            health.append(1000 * with_server.get("/health").seconds)
            time.sleep(0.1)
    finally:
        with_server.stop()
    health.sort()
    figures = {"connections": 100, "gone": len(gone), "last_gone_s": max(gone)}
    return {**figures, "health_p50_ms": percentile(health, 0.5), "health_max_ms": health[-1], "health": len(health)}


def disconnects(bench: Bench) -> Figures:
    """100 clients with a long review each, which all go away while the first are worked on."""
    server = Server("--workers", WORKERS, "--task", "sentiment", "--max-wait", 600)
    server.wait_for("ready")
    line = 'edge_imdb_text_seconds_count{task="sentiment"}'
    body = json.dumps({"inputs": [LONG] * 8}).encode()
    request = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    try:
        opened = []
        for _ in range(100):
            connection = socket.create_connection(("127.0.0.1", server.port))
            connection.sendall(request)
            opened.append(connection)
        while server.metric("edge_imdb_queue_texts") < 600:
            time.sleep(0.01)
        for connection in opened:
            connection.close()
        while server.metric("edge_imdb_queue_texts") > WORKERS:
            time.sleep(0.001)
        before = server.metric(line)
        time.sleep(2)
        return {
            "requests": 100,
            "texts": 800,
            "texts_begun_before": before,
            "texts_run_after": server.metric(line) - before,
            "workers": WORKERS,
        }
    finally:
        server.stop()


def drain(bench: Bench) -> Figures:
    """SIGTERM with 20 in flight; and a second signal."""
    server = Server("--workers", WORKERS, "--max-wait", 600, *ROOM)
    server.wait_for("ready")
    with ThreadPoolExecutor(24) as pool:
        futures = [pool.submit(server.post, "/", {"inputs": [LONG] * 4}) for _ in range(20)]
        while server.metric("edge_imdb_queue_texts") < 60:
            time.sleep(0.005)
        start = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        statuses = [future.result().status for future in futures]
        answered = time.monotonic() - start
        code = server.process.wait(60)
    ended = time.monotonic() - start
    server = Server("--workers", WORKERS, *ROOM)
    server.wait_for("ready")
    with ThreadPoolExecutor(2) as pool:
        future = server.occupy(pool)
        server.process.send_signal(signal.SIGTERM)
        server.wait_for("draining")
        start = time.monotonic()
        second = server.stop()
        at_once = time.monotonic() - start
        future.exception()
    return {
        "in_flight": 20,
        "answered": statuses.count(200),
        "seconds_to_the_last": answered,
        "seconds_to_the_end": ended,
        "exit_code": code,
        "second_signal_s": at_once,
        "second_signal_exit_code": second,
    }


def ready(bench: Bench) -> Figures:
    """Seconds from the start of the process to 200 on /health, for both tasks and for sentiment alone."""

    def once(*arguments: str) -> tuple[float, float]:
        server = Server(*arguments)
        while server.get("/health").status != 200:
            time.sleep(0.005)
        seconds, mib = time.monotonic() - server.begun, memory(server.process.pid)
        server.stop()
        return seconds, mib

    figures: Figures = {}
    for name, arguments in (("both", ()), ("sentiment", ("--task", "sentiment"))):
        runs = [once(*arguments) for _ in range(7)]
        figures[name] = {"seconds": sorted(run[0] for run in runs), "mib": statistics.median(run[1] for run in runs)}
        figures[name]["median_s"] = statistics.median(figures[name]["seconds"])
    return figures


LITSERVE = """
import sys, litserve
from edge_imdb import Sentiment
class API(litserve.LitAPI):
    def setup(self, device):
        self.model = Sentiment(threads=1)
    def decode_request(self, request):
        return request["inputs"]
    def predict(self, text):
        return self.model(text, top_k=None)
    def encode_response(self, output):
        return output
if __name__ == "__main__":
    server = litserve.LitServer(API(api_path="/predict"), accelerator="cpu", workers_per_device=2)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, num_api_servers=1)
"""
FASTAPI = """
import os, sys, torch, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
from transformers import pipeline
torch.set_num_threads(1)
pipe = pipeline("text-classification", sys.argv[2], device=-1)
app = FastAPI()
class Body(BaseModel):
    inputs: str
@app.get("/health")
def health():
    return "ok"
@app.post("/predict")
def predict(body: Body):
    return pipe(body.inputs, top_k=None, truncation=True, max_length=512)
if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def beside(bench: Bench) -> Figures:
    """LitServe with our model, and FastAPI with transformers' pipeline on the same weights, in turn with ours."""
    import http.client

    from contenders import bundle_checkpoint

    from edge_imdb.runtime.bundle import find_bundle

    checkpoint = bundle_checkpoint(bench.folder / "checkpoint", find_bundle("sentiment")[0])
    first = {"inputs": bench.texts[0]}

    def of(name: str, command: Callable[[int], list[Any]]) -> Figures:
        port = free_port()
        start = time.monotonic()
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            list(map(str, command(port))),
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            while True:
                if process.poll() is not None or time.monotonic() - start > 120:
                    raise SystemExit(f"{name} doesn't start: is it installed for {bench.python}?")
                try:
                    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                    connection.request("POST", "/predict", json.dumps(first), {"Content-Type": "application/json"})
                    if connection.getresponse().status == 200:
                        break
                except OSError:
                    pass
                time.sleep(0.01)
            started = time.monotonic() - start
            row: Figures = {"name": name, "start_s": started}
            for kind, bodies in (("reviews", bench.bodies), ("60 characters", bench.short)):
                for connections in (8, 64):
                    found = bench.measured(port, process.pid, "/predict", bodies, connections=connections)
                    row[f"{kind}, {connections} connections"] = found
            row["mib"] = memory(process.pid)
            print(json.dumps(row), flush=True)
            return row
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            time.sleep(1)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def ours(port: int) -> list[Any]:
        options = ["--task", "sentiment", "--max-wait", 60, "--port", port]
        return [sys.executable, "-m", "edge_imdb", "serve", *options]

    def peer(name: str, code: str) -> Callable[[int], list[Any]]:
        script = bench.folder / f"{name}_server.py"
        script.write_text(code)
        return lambda port: [bench.python, script, port, checkpoint]

    return {
        "rows": [
            of("edge-imdb serve", ours),
            of("LitServe with our model, 2 workers", peer("litserve", LITSERVE)),
            of("edge-imdb serve", ours),
            of("LitServe with our model, 2 workers", peer("litserve", LITSERVE)),
            of("FastAPI with transformers' pipeline", peer("fastapi", FASTAPI)),
            of("edge-imdb serve", ours),
        ]
    }


PARTS: dict[str, Callable[[Bench], Figures]] = {
    "ready": ready,
    "slow_clients": slow_clients,
    "disconnects": disconnects,
    "drain": drain,
    "throughput": throughput,
    "overload": overload,
    "beside": beside,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="Hub id, folder or file of reviews")
    parser.add_argument("--split", default="test", help="its split")
    parser.add_argument("--reviews", type=int, default=400, help="so many, drawn with a fixed seed")
    parser.add_argument("--part", choices=PARTS, action="append", help="leave the others out")
    parser.add_argument("--seconds", type=float, default=10, help="of each load")
    parser.add_argument("--python", default=sys.executable, help="Python that has LitServe and FastAPI")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    from edge_imdb import Sentiment

    texts = read(options.data, options.split, options.reviews, Sentiment().labels)
    figures: Figures = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    figures["machine"] = describe()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(texts, Path(folder), options.seconds, options.python)
        for name in options.part or PARTS:
            figures[name] = {
                "load_average_before": os.getloadavg()[0],
                "reviews": len(texts),
                "mean_characters": statistics.mean(map(len, texts)),
                **PARTS[name](bench),
            }
            print(name, json.dumps(figures[name], indent=1), flush=True)
            if options.json:
                options.json.write_text(json.dumps(figures, indent=1) + "\n")


def read(data: str, split: str, count: int, labels: list[str]) -> list[str]:
    import numpy as np

    from edge_imdb.data.datasets import read_reviews

    reviews = read_reviews(data, split, "text", "label", names=labels)
    order = np.random.default_rng(0).permutation(len(reviews.texts))[:count]
    return [reviews.texts[i] for i in order]


if __name__ == "__main__":
    run_as_command(main)
