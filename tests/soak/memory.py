"""Resident memory over 50,000 reviews of random length: python tests/soak/memory.py [--reviews 50000]

After the first 5,000 it may grow by 5 % at most.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from edge_imdb import Sentiment

WARM, ALLOWED = 5000, 0.05
WORDS = ["the", "a", "film", "plot", "was", "not", "great", "awful", "dull", "cast", "映画", "naïve", "unwatchable"]


def resident() -> float:
    """Memory of this process in MiB, as Linux reports it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise SystemExit("This system tells no resident memory: run it on Linux.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=50_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    draw, model = random.Random(0), Sentiment(threads=options.threads)
    start, after_warm, largest = time.monotonic(), 0.0, 0.0
    for number in range(1, options.reviews + 1):
        # Short reviews are more frequent: 10 to 1,000 words, most under 200.
        model(" ".join(draw.choices(WORDS, k=int(10 ** draw.uniform(1, 3)))))
        if number == min(WARM, options.reviews // 10):
            after_warm = resident()
        if number % 5000 == 0:
            largest = max(largest, resident())
            print(f"{number} reviews, {time.monotonic() - start:.0f} s, {resident():.1f} MiB", flush=True)
    growth = max(largest, resident()) / after_warm - 1
    print(f"after the first {WARM}: {after_warm:.1f} MiB; since then at most {100 * growth:+.1f} %")
    sys.exit(growth > ALLOWED)


if __name__ == "__main__":
    main()
