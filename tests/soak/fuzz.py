"""Coverage-guided fuzzing with atheris: python tests/soak/fuzz.py text|manifest [--seconds 300]

``text``: any bytes as a review, and as a text with a mask, through the embedded bundles. ``manifest``: any bytes as
edge.json, once as they are and once with a correct sha256, so that the checks after it are reached. A finding is any
exception that is not ours, or scores that are not probabilities. atheris prints it with its input and stops; otherwise
it prints the number of inputs at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["edge_imdb"]):
    from edge_imdb import FillMask, Sentiment
    from edge_imdb.errors import BundleError, InputError
    from edge_imdb.runtime.bundle import EMBEDDED, open_bundle, seal


def fuzz_text(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    try:
        scores = sentiment.probabilities(text)
        assert abs(scores.sum() - 1) < 1e-9 and (scores >= 0).all(), scores
        results = fill_mask(text + " [MASK]", top_k=2)
        assert len(results) >= 1
    except InputError:
        pass


def fuzz_manifest(content: bytes) -> None:
    manifest = folder / "edge.json"
    manifest.write_bytes(content)
    tries = 1
    try:
        record = json.loads(content)
        if isinstance(record, dict):
            tries = 2
            sealed = json.dumps({**record, "sha256": seal(record)})
    except (ValueError, RecursionError):
        pass
    for number in range(tries):
        if number:
            manifest.write_text(sealed)
        try:
            bundle = open_bundle(folder, "sentiment")
            for name in bundle.files:
                bundle.file(name, hashed=False)
        except BundleError:
            pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=["text", "manifest"])
    parser.add_argument("--seconds", type=int, default=300)
    options = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    corpus, folder = scratch / "corpus", scratch / "bundle"
    corpus.mkdir()
    if options.target == "text":
        sentiment, fill_mask = Sentiment(threads=1), FillMask(threads=1)
        seeds = ["great film", "A dull plot.<br /><br />10&#47;10 &amp; more", "été 映画 🎬", "[MASK] [CLS] \x00\u200b"]
        found = [text.encode() for text in seeds]
    else:
        shutil.copytree(EMBEDDED / "sentiment", folder)
        found = [(EMBEDDED / task / "edge.json").read_bytes() for task in ("sentiment", "fill-mask")]
    for number, content in enumerate(found):
        (corpus / str(number)).write_bytes(content)
    arguments = [sys.argv[0], str(corpus), f"-max_total_time={options.seconds}", "-max_len=4000", "-verbosity=1"]
    arguments += ["-timeout=20", f"-artifact_prefix={scratch}/"]
    atheris.Setup(arguments, fuzz_text if options.target == "text" else fuzz_manifest)
    atheris.Fuzz()
