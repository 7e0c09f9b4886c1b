"""Print the probabilities that a bundle gives to texts, as JSON: python scores.py THREADS < texts.json

test_portability runs it on other CPUs, so it imports only the runtime. It prints the probabilities of each text, and
those of five words for its first [MASK], if it has one.
"""

from __future__ import annotations

import json
import sys

from edge_imdb import FillMask, Sentiment

WORDS = ["film", "movie", "plot", "story", "bore"]


def main() -> None:
    threads = int(sys.argv[1])
    texts = json.load(sys.stdin)
    sentiment = Sentiment(provider="cpu", threads=threads)
    fill_mask = FillMask(provider="cpu", threads=threads)
    print("[", flush=True)
    for number, text in enumerate(texts):
        scores = sentiment.probabilities(text).tolist()
        if "[MASK]" in text:
            found = {entry["token_str"]: entry["score"] for entry in fill_mask(text, targets=WORDS)}
            scores += [found[word] for word in WORDS]
        # One line each, as soon as it is ready, because emulation takes minutes.
        print(json.dumps(scores), "," if number + 1 < len(texts) else "]", flush=True)


if __name__ == "__main__":
    main()
