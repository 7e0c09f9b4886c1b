"""The server's memory over 50,000 requests of random length: python tests/soak/serve.py [--requests 50000]

After the first 5,000 it may grow by 5 % at most. One in ten requests is wrong, one in ten is for fill-mask, and one in
fifty goes away before its answer.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "benchmarks"))
from machine import describe  # noqa: E402
from serving import serving  # noqa: E402

WARM, ALLOWED = 5000, 0.05
WORDS = ["the", "a", "film", "plot", "was", "not", "great", "awful", "dull", "cast", "映画", "naïve", "unwatchable"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--json", type=Path, help="add the figures to this file, as benchmarks/serve.py does")
    options = parser.parse_args()
    # Counted in thousands.
    warm = max(1000, min(WARM, options.requests // 10))
    after_warm, largest, statuses = 0.0, 0.0, {}
    with serving("--no-access-log", "--max-wait", 600) as server, ThreadPoolExecutor(8) as pool:

        def one(number: int) -> int:
            draw = random.Random(number)
            text = " ".join(draw.choices(WORDS, k=int(10 ** draw.uniform(0, 2.5))))
            if number % 10 == 0:
                return server.post("/", {"inputs": number}).status
            if number % 10 == 1:
                return server.post("/models/fill-mask", {"inputs": f"[MASK] {text}"}).status
            if number % 50 == 2:
                body = json.dumps({"inputs": [text] * 4}).encode()
                with socket.create_connection(("127.0.0.1", server.port)) as connection:
                    connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                return 499
            return server.post("/", {"inputs": text}).status

        # The longest texts on all workers at once need the most memory, and ONNX Runtime keeps it. By chance that was
        # late, so they come first.
        longest = "unwatchable " * 400
        for path, text in (("/", longest), ("/models/fill-mask", f"[MASK] {longest}")) * 2:
            list(pool.map(lambda _, path=path, text=text: server.post(path, {"inputs": text}), range(16)))
        print(f"before the first: {server.memory():.1f} MiB", flush=True)
        start = time.monotonic()
        for first in range(0, options.requests, 1000):
            for status in pool.map(one, range(first, min(first + 1000, options.requests))):
                statuses[status] = statuses.get(status, 0) + 1
            done = first + 1000
            if done <= warm:
                after_warm = server.memory()
            largest = max(largest, server.memory())
            if done % 5000 == 0:
                print(f"{done} requests, {time.monotonic() - start:.0f} s, {server.memory():.1f} MiB", flush=True)
        failures = [line for line in server.log if line["event"] == "failure"]
    growth = largest / after_warm - 1
    print(f"after the first {warm}: {after_warm:.1f} MiB; since then at most {100 * growth:+.1f} %; {statuses}")
    if options.json:
        figures = json.loads(options.json.read_text()) if options.json.exists() else {}
        figures["soak"] = {
            "cpu": describe()["cpu"],
            "requests": options.requests,
            "seconds": time.monotonic() - start,
            "after": warm,
            "mib": after_warm,
            "largest_mib": largest,
            "growth": growth,
            "failures": len(failures),
            "statuses": statuses,
        }
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(growth > ALLOWED or bool(failures) or bool(set(statuses) - {200, 422, 499}))


if __name__ == "__main__":
    main()
