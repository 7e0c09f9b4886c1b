"""The embedded bundles give the same probabilities on other CPUs, which qemu emulates, and on any number of threads.

The emulators come from tests/portability/get_emulators.sh, which `make test` calls. Where they are missing, the tests
of other CPUs skip and say so.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from conftest import BAD, GOOD, OPENINGS, SUBJECTS
from killing import SOAK

ROOT = Path(__file__).resolve().parents[2]
EMULATORS = ROOT / ".emulators"
SCRIPT = Path(__file__).with_name("scores.py")
# make soak takes more.
TEXTS = 300 if SOAK else 60
# CPUs, the number of texts they get, and by how much a probability may differ from this machine's. Haswell has AVX2 but
# neither AVX-512 nor VNNI; qemu has no AVX-512. With 7 bits no int8 product overflows anywhere, and with attention
# written out all CPUs with AVX2 get the same bits (edge_imdb/edge_graph/write.py). On other CPUs sums in fp32 are
# rounded differently. If that changes how a value is rounded to int8, a score changes: on arm64 in one text of five.
LIMITS = {"Haswell": (TEXTS, 1e-5), "Nehalem": (TEXTS // 3, 5e-2), "arm64": (TEXTS, 5e-2)}


def make_texts() -> list[str]:
    """Short texts of many kinds, because emulation takes a quarter of a second per ten tokens."""
    draw = random.Random(0)
    odd = ["naïve", "Ωmega", "映画は最高", "фильм", "🎬🍿", "!!!", "10/10", "$$$", "it's", "don't", "l'été", "#fail"]
    texts = []
    for number in range(TEXTS):
        words = [
            draw.choice(OPENINGS),
            "the",
            draw.choice(SUBJECTS),
            "was",
            draw.choice(GOOD if number % 2 else BAD),
            draw.choice(odd),
        ]
        draw.shuffle(words)
        text = " ".join(words[: draw.randint(1, 6)])
        if number % 10 == 0:
            text += " [MASK] " + draw.choice(SUBJECTS)
        if number % 50 == 49 or number + 1 == TEXTS:
            text = " ".join(draw.choice(GOOD + BAD + SUBJECTS) for _ in range(250 if number + 1 == TEXTS else 60))
        texts.append(text)
    return texts


def command_of(cpu: str) -> list[str] | str:
    """How to run Python on another CPU, or why that isn't possible."""
    missing = f"run tests/portability/get_emulators.sh {EMULATORS.name} python3"
    if cpu == "arm64":
        root = EMULATORS / "arm64"
        if not (EMULATORS / "bin" / "qemu-aarch64").exists() or not (root / ".whole").exists():
            return f"no arm64 root in {EMULATORS.name}: {missing}"
        python = next((root / "usr" / "bin").glob("python3.*[0-9]"))
        paths = f"PYTHONPATH={root / 'packages'}:{ROOT}"
        return [str(EMULATORS / "bin" / "qemu-aarch64"), "-L", str(root), "-E", paths, str(python)]
    if platform.machine() != "x86_64":
        return "this machine is no x86 CPU"
    if not (EMULATORS / "bin" / "qemu-x86_64").exists():
        return f"no qemu-x86_64 in {EMULATORS.name}: {missing}"
    return [str(EMULATORS / "bin" / "qemu-x86_64"), "-cpu", cpu, sys.executable]


def start(command: list[str], texts: list[str], threads: int = 1) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [*command, str(SCRIPT), str(threads)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin
    process.stdin.write(json.dumps(texts))
    process.stdin.close()
    process.stdin = None
    return process


def finish(process: subprocess.Popen[str]) -> list[np.ndarray]:
    out, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err[-2000:]
    return [np.array(scores) for scores in json.loads(out)]


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return make_texts()


@pytest.fixture(scope="module")
def native(texts: list[str]) -> list[np.ndarray]:
    return finish(start([sys.executable], texts))


def differences(some: list[np.ndarray], others: list[np.ndarray]) -> tuple[float, int]:
    """The largest difference of a probability, and the number of texts with a different label."""
    largest = max(float(np.abs(one - other).max()) for one, other in zip(some, others, strict=True))
    return largest, sum(one[:2].argmax() != other[:2].argmax() for one, other in zip(some, others, strict=True))


@pytest.mark.parametrize("threads", [2, 4])
def test_any_number_of_threads_gives_the_same(texts: list[str], native: list[np.ndarray], threads: int) -> None:
    largest, changed = differences(native, finish(start([sys.executable], texts, threads)))
    print(f"{threads} threads: largest difference {largest:.1e}, {changed} labels changed")
    assert largest < 1e-5 and not changed


def stamp(cpu: str) -> Path:
    """The file that says with which inputs a CPU last passed."""
    return EMULATORS / f"passed-{cpu}"


def passed(cpu: str) -> bool:
    return not SOAK and stamp(cpu).exists() and stamp(cpu).read_text() == fingerprint(cpu)


@pytest.fixture(scope="module")
def emulated(texts: list[str]) -> Iterator[Callable[[str], list[np.ndarray]]]:
    """The scores of a CPU; two emulators run at a time."""
    waiting = [cpu for cpu in LIMITS if not isinstance(command_of(cpu), str) and not passed(cpu)]
    running: dict[str, subprocess.Popen[str]] = {}

    def begin(cpu: str) -> None:
        waiting.remove(cpu)
        command = command_of(cpu)
        assert isinstance(command, list)
        running[cpu] = start(command, texts[: LIMITS[cpu][0]])

    def scores(cpu: str) -> list[np.ndarray]:
        if cpu in waiting:
            begin(cpu)
        if waiting and (os.cpu_count() or 1) > 1:
            begin(waiting[0])
        return finish(running.pop(cpu))

    yield scores
    for process in running.values():
        process.kill()
        process.communicate()


def fingerprint(cpu: str) -> str:
    """A digest of everything that decides what an emulated CPU prints: models, runtime, versions and this test."""
    digest = hashlib.sha256(f"{cpu} {LIMITS[cpu]} {TEXTS}".encode())
    package = ROOT / "edge_imdb"
    files = [
        ROOT / "constraints.txt",
        SCRIPT,
        Path(__file__),
        *package.glob("models/*/edge.json"),
        package / "errors.py",
    ]
    files += [path for room in ("runtime", "data", "tasks") for path in sorted((package / room).rglob("*.py"))]
    for path in files:
        digest.update(path.read_bytes())
    digest.update("".join(version(name) for name in ("numpy", "onnxruntime", "tokenizers")).encode())
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("cpu", LIMITS)
def test_another_cpu_gives_the_same(
    native: list[np.ndarray], emulated: Callable[[str], list[np.ndarray]], cpu: str
) -> None:
    command = command_of(cpu)
    if isinstance(command, str):
        pytest.skip(command)
    if passed(cpu):
        pytest.skip(f"passed before with the same models, runtime and versions; to repeat it, remove {stamp(cpu)}")
    count, limit = LIMITS[cpu]
    found, expected = emulated(cpu), native[:count]
    largest, changed = differences(expected, found)
    same = sum(np.abs(one - other).max() < 1e-5 for one, other in zip(expected, found, strict=True))
    print(f"{cpu}: largest difference {largest:.1e}, {same} of {count} texts within 1e-5, {changed} labels changed")
    assert largest < limit and not changed
    stamp(cpu).write_text(fingerprint(cpu))
