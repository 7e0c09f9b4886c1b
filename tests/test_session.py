"""Execution providers and threads."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import make_reviews

from edge_imdb import Sentiment
from edge_imdb.errors import ProviderError, UsageError
from edge_imdb.runtime import session


def test_auto_falls_back_to_the_cpu_in_so_many_words(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A runtime with CUDA on a machine without it: ONNX Runtime then makes a session without CUDA.
    monkeypatch.setattr(session, "available_providers", lambda: ["cuda", "cpu"])
    model = Sentiment(tiny_bundle)
    assert model.provider == "CPUExecutionProvider"
    assert "running on the CPU" in capsys.readouterr().err
    assert model("the film was great")[0]["label"] in ("neg", "pos")
    with pytest.raises(ProviderError, match="--provider cpu"):
        Sentiment(tiny_bundle, provider="cuda")


@pytest.mark.parametrize(("provider", "kind"), [("abacus", UsageError), ("tensorrt", ProviderError)])
def test_a_provider_that_is_not_there_is_named(tiny_bundle: Path, provider: str, kind: type[Exception]) -> None:
    with pytest.raises(kind, match=provider):
        Sentiment(tiny_bundle, provider=provider)


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_under_one_are_refused(tiny_bundle: Path, threads: int) -> None:
    with pytest.raises(UsageError, match=f"threads is {threads}: "):
        Sentiment(tiny_bundle, threads=threads)


def test_threads_of_the_caller_share_one_object(tiny_bundle: Path) -> None:
    model = Sentiment(tiny_bundle, threads=1)
    texts = [text for text, _ in make_reviews(200, seed=4)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda text: model(text)[0], texts)) == model(texts)


@pytest.mark.parametrize("top_k", [0, -1, 1.5])
def test_top_k_under_one_is_refused(tiny_bundle: Path, top_k: int) -> None:
    with pytest.raises(UsageError, match="top_k"):
        Sentiment(tiny_bundle)("fine", top_k=top_k)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


V2 = {"proc/self/cgroup": "0::/pod/box"}
V1 = {"proc/self/cgroup": "5:cpuset:/\n4:cpu,cpuacct:/docker/box\n0::/"}
V1_BOX = "sys/fs/cgroup/cpu,cpuacct/docker/box/cpu.cfs"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        (V2, 8),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "max 100000"}, 8),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "200000 100000"}, 2),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "250000 100000"}, 2),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "50000 100000"}, 1),
        # The limits of a containing group apply too. A container sees its own group as the root.
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "max 100000", "sys/fs/cgroup/pod/cpu.max": "300000 100000"}, 3),
        (V2 | {"sys/fs/cgroup/cpu.max": "400000 100000"}, 4),
        (V1 | {f"{V1_BOX}_quota_us": "-1", f"{V1_BOX}_period_us": "100000"}, 8),
        (V1 | {f"{V1_BOX}_quota_us": "150000", f"{V1_BOX}_period_us": "50000"}, 3),
        (V2 | {"sys/fs/cgroup/pod/box/cpu.max": "nonsense"}, 8),
        # Two logical CPUs per core.
        ({f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{n % 4},{n % 4 + 4}" for n in range(8)}, 4),
    ],
)
def test_cores_are_those_of_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    assert session.usable_cores(write(tmp_path, files)) == expected


THREADS = """
import os
os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[-1]})
from edge_imdb import Sentiment
import numpy
before = len(os.listdir("/proc/self/task"))
model = Sentiment()
model("great film")
print(model.threads, len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_a_process_bound_to_one_cpu_gets_one_thread() -> None:
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "1 0\n"), done.stderr
