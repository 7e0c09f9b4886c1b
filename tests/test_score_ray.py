"""edge-imdb score on a Ray cluster and to S3: the same bytes as on one machine, whoever is killed.

Runs in an environment of its own, .venv-ray (make test): ray alone takes 635 MB. S3 is moto's server.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pickle
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_reviews, write_csv

if importlib.util.find_spec("ray") is None:
    pytest.skip("ray isn't installed here: make test runs this file in .venv-ray", allow_module_level=True)

import edge_imdb
from edge_imdb.runtime.bundle import EMBEDDED, open_bundle
from edge_imdb.scoring.labels import Options, bundle_files, bundle_sha256
from edge_imdb.tasks import TASKS

ROWS = 600


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("part-")}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[tuple[str, int]]:
    """A cluster of three CPUs on this machine: its address, and the process that all others are below."""
    port = free_port()
    # Ray's sockets need a short path.
    folder = f"/tmp/edge-ray-{os.getpid()}"
    # Ray lets in only those who know its token, this one's own.
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))
    command = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", f"--port={port}", "--num-cpus=3",
        "--node-ip-address=127.0.0.1",
        "--include-dashboard=false", "--object-store-memory=100000000", f"--temp-dir={folder}", "--disable-usage-stats",
    ]  # fmt: skip
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as head:
        address = f"127.0.0.1:{port}"
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.2)
        time.sleep(3)
        yield address, head.pid
        with contextlib.suppress(Exception):
            import ray

            ray.shutdown()
        # Asked nicely it takes half a minute.
        for pid in below(head.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def cluster(head: tuple[str, int]) -> str:
    return head[0]


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [(text * 3, label) for text, label in make_reviews(ROWS)]
    rows[6] = (" ", "neg")
    return write_csv(tmp_path_factory.mktemp("in") / "reviews.csv", rows, ("text", "topic"))


@pytest.fixture(scope="module")
def expected(reviews: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one machine alone writes."""
    folder = tmp_path_factory.mktemp("expected") / "out"
    edge_imdb.score(reviews, folder, part_rows=50)
    return files(folder)


def start(*arguments: object, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "edge_imdb", "score", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **(env or {})},
    )


def finish(process: subprocess.Popen[str], code: int = 3) -> tuple[str, str]:
    out, err = process.communicate(timeout=240)
    assert process.returncode == code and "Traceback" not in err, err[-3000:]
    return out, err


def wait_for_parts(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    while len(list(folder.glob("part-*"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def below(top: int) -> dict[int, bytes]:
    """The processes that descend from the process ``top``, with their command lines."""
    parents, names = {}, {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                names[int(entry.name)] = (entry / "cmdline").read_bytes()
    found = {top}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: names[pid] for pid in found if pid in names}


def actors(head: int) -> list[int]:
    """The processes of our actors in the cluster whose first process is ``head``."""
    return [pid for pid, name in below(head).items() if name.startswith(b"ray::_Actor")]


# --- Ray


def test_a_cluster_writes_the_same_bytes_as_one_machine(
    cluster: str, reviews: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    process = start(reviews, "--output", tmp_path / "out", "--part-rows", 50, "--ray", cluster, "--workers", 2)
    out, _ = finish(process)
    assert "600 rows" in out and files(tmp_path / "out") == expected


def test_an_actor_that_is_killed_loses_nothing(
    head: tuple[str, int], cluster: str, reviews: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    process = start(reviews, "--output", tmp_path / "out", "--part-rows", 50, "--ray", cluster, "--workers", 2)
    wait_for_parts(process, tmp_path / "out", 2)
    killed = actors(head[1])
    assert len(killed) == 2, "two actors hold a model"
    os.kill(killed[0], signal.SIGKILL)
    _, err = finish(process)
    assert "An actor was lost" in err and files(tmp_path / "out") == expected


def test_a_driver_that_is_killed_is_begun_again_and_leaves_no_actor(
    head: tuple[str, int], cluster: str, reviews: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    arguments = (reviews, "--output", tmp_path / "out", "--part-rows", 50, "--ray", cluster, "--workers", 2)
    process = start(*arguments)
    wait_for_parts(process, tmp_path / "out", random.Random(0).randint(2, 6))
    process.kill()
    process.communicate()
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    out, _ = finish(start(*arguments))
    assert "already done" in out and files(tmp_path / "out") == expected
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == when for name, when in before.items())
    deadline = time.monotonic() + 30
    while actors(head[1]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert actors(head[1]) == []


def test_more_actors_than_the_cluster_has_room_for_do_not_hang(
    cluster: str, reviews: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    process = start(reviews, "--output", tmp_path / "out", "--part-rows", 50, "--ray", cluster, "--workers", 8)
    finish(process)
    assert files(tmp_path / "out") == expected


def test_a_bundle_that_a_node_lacks_is_sent_there(cluster: str, reviews: Path, tmp_path: Path) -> None:
    """The variable leads only this driver to another bundle; the cluster was started without it."""
    other = tmp_path / "models" / "sentiment"
    for name, data in bundle_files(Options("sentiment", TASKS["sentiment"].rows())).items():
        (other / name).parent.mkdir(parents=True, exist_ok=True)
        (other / name).write_bytes(data)
    from edge_imdb.runtime.bundle import seal

    record = json.loads((other / "edge.json").read_text())
    record["calibration"]["temperature"] *= 2
    record["sha256"] = seal(record)
    (other / "edge.json").write_text(json.dumps(record))
    open_bundle(other, "sentiment")
    assert bundle_sha256(other) != bundle_sha256(EMBEDDED / "sentiment")
    environment = {"EDGE_IMDB_MODELS": str(tmp_path / "models")}
    few = write_csv(tmp_path / "few.csv", [(text, label) for text, label in make_reviews(20)], ("text", "topic"))
    finish(start(few, "--output", tmp_path / "local.csv", env=environment), 0)
    finish(start(few, "--output", tmp_path / "ray.csv", "--ray", cluster, "--workers", 1, env=environment), 0)
    assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
    assert not {path.name for path in tmp_path.iterdir()} - {"models", "few.csv", "local.csv", "ray.csv"}


def test_no_cluster_is_a_sentence(reviews: Path, tmp_path: Path) -> None:
    _, err = finish(start(reviews, "--output", tmp_path / "out", "--ray", f"127.0.0.1:{free_port()}"), 2)
    assert "There is no Ray cluster at" in err and "ray start --head" in err


# --- S3


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """moto's server as an S3 with one bucket, and the environment that leads there."""
    for module in ("moto", "s3fs", "flask"):
        pytest.importorskip(module, reason=f"{module} isn't installed: S3 stays untested")
    port = free_port()
    environment = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        os.environ.update(environment)
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield environment
        for name in environment:
            os.environ.pop(name)
        server.terminate()


def objects(prefix: str) -> dict[str, bytes]:
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    names = system.ls(prefix) if system.exists(prefix) else []
    return {name.rsplit("/", 1)[-1]: system.cat_file(name) for name in names if "part-" in name}


def test_s3_holds_the_same_bytes_though_the_writer_is_killed(
    s3: dict[str, str], reviews: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).put_file(str(reviews), "bucket/in/reviews.csv")
    arguments = ("s3://bucket/in/reviews.csv", "--output", "s3://bucket/out", "--part-rows", 50)
    process = start(*arguments)
    while len(objects("bucket/out")) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    _, err = finish(start(*arguments), 1)
    assert "Another process" in err and "is writing s3://bucket/out" in err, "the lease is held"
    process.kill()
    process.communicate()
    _, err = finish(start(*arguments), 1)
    assert "a minute if it was killed" in err
    # As if that minute had passed.
    s3fs.S3FileSystem(skip_instance_cache=True).rm("bucket/out/_writer.json")
    out, _ = finish(start(*arguments))
    assert "already done" in out and objects("bucket/out") == expected
    out, _ = finish(start("--status", "s3://bucket/out"), 0)
    assert "12 of 12 parts" in out and "finished" in out


def test_s3_takes_one_joined_file(s3: dict[str, str], reviews: Path, tmp_path: Path) -> None:
    import s3fs

    finish(start(reviews, "--output", "s3://bucket/joined.csv.gz"))
    finish(start(reviews, "--output", tmp_path / "joined.csv.gz"))
    system = s3fs.S3FileSystem(skip_instance_cache=True)
    assert system.cat_file("bucket/joined.csv.gz") == (tmp_path / "joined.csv.gz").read_bytes()
    assert objects("bucket/joined.csv.gz.parts") == {}


def test_s3_without_the_bucket_is_a_sentence(s3: dict[str, str], reviews: Path) -> None:
    _, err = finish(start(reviews, "--output", "s3://nosuchbucket/out"), 1)
    assert err.startswith("Error: s3://nosuchbucket/out") and err.count("\n") == 1, err


# --- the lines of docs/score.md


def test_a_pickled_model_gives_the_same() -> None:
    sentiment = edge_imdb.Sentiment(threads=1)
    try:
        data = pickle.dumps(sentiment)
    except TypeError as error:
        pytest.skip(f"Sentiment can't be pickled yet: {error}")
    assert pickle.loads(data)("great film") == sentiment("great film")


def blocks(name: str) -> str:
    page = (Path(__file__).parents[1] / "docs" / "score.md").read_text(encoding="utf-8")
    found = re.findall(rf"<!-- test: {name} -->\n+```python\n(.*?)```", page, re.DOTALL)
    assert len(found) == 1, name
    return str(found[0])


@pytest.mark.parametrize("name", ["pandas", "polars", "ray-data", "spark"])
def test_the_lines_of_the_docs_label_a_table(
    name: str, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = {"pandas": "pandas", "polars": "polars", "ray-data": "ray", "spark": "pyspark"}[name]
    pytest.importorskip(module, reason=f"{module} isn't installed")
    if name == "spark":
        found = subprocess.run(["java", "-version"], capture_output=True) if os.environ.get("PATH") else None
        if found is None or found.returncode:
            pytest.skip("Spark needs Java, which isn't here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    import pyarrow
    from pyarrow import parquet

    texts = ["great film", "awful film", "a moving story"] * 5
    parquet.write_table(pyarrow.table({"text": texts}), "reviews.parquet")
    scope: dict[str, object] = {"__name__": "__main__"}
    exec(blocks(name).replace("/data/", f"{tmp_path}/"), scope)
    written = sorted(Path("labelled").glob("*.parquet")) if Path("labelled").is_dir() else [Path("labelled.parquet")]
    rows = [row for path in written for row in parquet.read_table(path).to_pylist()]
    assert sorted((row["text"], row["label"]) for row in rows) == sorted(
        zip(texts, ["pos", "neg", "pos"] * 5, strict=True)
    )
