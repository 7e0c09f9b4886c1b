"""edge-imdb score: the same bytes however often it is stopped, and a sentence for whatever stops it."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import make_reviews, run_command, write_csv
from killing import SOAK, CommandServer, spread
from test_disk import disk

import edge_imdb
from edge_imdb import scoring
from edge_imdb.errors import EdgeImdbError, InputError, OutputError, UsageError

pyarrow = pytest.importorskip("pyarrow", reason="score needs pyarrow")
from pyarrow import parquet  # noqa: E402


def files(folder: Path) -> dict[str, bytes]:
    """What a job leaves, but for what it says of its time."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith("part-")}


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 short reviews, of which row 7 is blank."""
    rows = [(text[:60], label) for text, label in make_reviews(120)]
    rows[6] = (" ", "neg")
    return write_csv(tmp_path_factory.mktemp("score") / "reviews.csv", rows, ("text", "topic"))


@pytest.fixture(scope="module")
def command_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandServer]:
    modules = (
        "edge_imdb.cli.score",
        "edge_imdb.scoring",
        "edge_imdb.tasks.sentiment.pipeline",
        "onnxruntime",
        "pyarrow.parquet",
    )
    server = CommandServer(tmp_path_factory.mktemp("command_server"), (*modules, "tokenizers"))
    yield server
    server.close()


def start(*arguments: object, **options: object) -> subprocess.Popen[str]:
    """``edge-imdb score`` in a process of its own that isn't waited for."""
    return subprocess.Popen(
        [sys.executable, "-m", "edge_imdb", "score", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        **options,  # type: ignore[call-overload]
    )


def wait_for_parts(process: subprocess.Popen[str], folder: Path, count: int = 1) -> None:
    while len(list(folder.glob("part-*"))) < count:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def long_reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many as take a while."""
    rows = [(text * 20, label) for text, label in make_reviews(2000)]
    return write_csv(tmp_path_factory.mktemp("long") / "reviews.csv", rows)


# --- what is written


def test_every_row_gets_what_sentiment_says_of_it(reviews: Path, tmp_path: Path) -> None:
    summary = edge_imdb.score(reviews, tmp_path / "out", part_rows=50)
    assert sorted(files(tmp_path / "out")) == [f"part-0000{n}-of-00003.parquet" for n in range(3)]
    table = parquet.read_table(tmp_path / "out").to_pylist()
    assert list(table[0]) == ["text", "topic", "label", "score", "error"]
    with reviews.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["text"], row["topic"]) for row in table] == [(row["text"], row["topic"]) for row in rows]
    sentiment = edge_imdb.Sentiment(threads=1)
    for number, row in enumerate(table):
        if number == 6:
            assert row["label"] is row["score"] is None and "blank" in row["error"]
        else:
            assert {"label": row["label"], "score": row["score"]} == sentiment(row["text"])[0]
            assert row["error"] is None
    assert (summary.rows, summary.errors, summary.parts, summary.labelled) == (120, 1, 3, 120)
    assert sum(summary.labels.values()) == 119


def test_a_finished_job_is_not_done_again(reviews: Path, tmp_path: Path) -> None:
    first = edge_imdb.score(reviews, tmp_path / "out", part_rows=50)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    again = edge_imdb.score(reviews, tmp_path / "out", part_rows=50)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")} == before
    assert again.labelled == 0 and (again.labels, again.errors) == (first.labels, first.errors)


def test_a_missing_part_alone_is_made_again_with_the_same_bytes(reviews: Path, tmp_path: Path) -> None:
    edge_imdb.score(reviews, tmp_path / "out", part_rows=25, workers=2)
    before = files(tmp_path / "out")
    (tmp_path / "out" / "part-00002-of-00005.parquet").unlink()
    assert edge_imdb.score(reviews, tmp_path / "out", part_rows=25, workers=1).labelled == 25
    assert files(tmp_path / "out") == before


def test_the_parts_name_does_not_depend_on_where_the_input_lies(reviews: Path, tmp_path: Path) -> None:
    edge_imdb.score(reviews, tmp_path / "out", part_rows=100)
    moved = shutil.copy(reviews, tmp_path / "moved.csv")
    assert edge_imdb.score(moved, tmp_path / "out", part_rows=100).labelled == 0


def test_a_text_that_names_its_columns_as_ours_keeps_them(reviews: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "labelled.csv", make_reviews(3))
    edge_imdb.score(tmp_path / "labelled.csv", tmp_path / "out")
    columns = ["text", "label", "predicted_label", "predicted_score", "predicted_error"]
    assert parquet.read_table(tmp_path / "out").column_names == columns
    with pytest.raises(UsageError, match="already has a column 'predicted_error'"):
        edge_imdb.score(tmp_path / "out", tmp_path / "again")
    edge_imdb.score(tmp_path / "out", tmp_path / "again", prefix="second_")
    assert parquet.read_table(tmp_path / "again").column_names[-1] == "second_error"


def test_fill_mask_writes_words_for_each_mask(tmp_path: Path) -> None:
    texts = ["A [MASK] film.", "No mask here.", "[MASK] acting and a [MASK] plot."]
    (tmp_path / "in.txt").write_text("\n".join(texts))
    summary = edge_imdb.score(tmp_path / "in.txt", tmp_path / "out.jsonl", task="fill-mask", top_k=3)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    fill_mask = edge_imdb.FillMask(threads=1)
    one, two = fill_mask(texts[0], top_k=3), fill_mask(texts[2], top_k=3)
    short = [[{key: word[key] for key in ("token_str", "score")} for word in mask] for mask in [one, *two]]
    assert (rows[0]["fills"], rows[2]["fills"]) == (short[:1], short[1:])
    assert rows[1]["fills"] is None and "no [MASK]" in rows[1]["error"] and summary.errors == 1


def test_explain_adds_the_words_that_decided_most_and_min_score_says_unsure(reviews: Path, tmp_path: Path) -> None:
    plain = edge_imdb.score(reviews, tmp_path / "plain")
    before = parquet.read_table(tmp_path / "plain").to_pylist()
    least = sorted(row["score"] for row in before if row["score"] is not None)[40]
    summary = edge_imdb.score(reviews, tmp_path / "out", explain=2, min_score=least)
    table = parquet.read_table(tmp_path / "out").to_pylist()
    assert list(table[0]) == ["text", "topic", "label", "score", "words", "error"]
    assert (summary.errors, summary.labels["unsure"], plain.labels.get("unsure")) == (1, 40, None)
    sentiment = edge_imdb.Sentiment(threads=1)
    for number, (row, old) in enumerate(zip(table, before, strict=True)):
        if number == 6:
            assert row["label"] is row["score"] is row["words"] is None and "blank" in row["error"]
            continue
        assert row["score"] == pytest.approx(old["score"], abs=1e-12)
        assert row["label"] == (old["label"] if old["score"] >= least else "unsure")
        words = sorted(sentiment.explain(row["text"])["words"], key=lambda word: -abs(word["weight"]))[:2]
        assert row["words"] == [{"word": word["word"], "weight": word["weight"]} for word in words]
    edge_imdb.score(reviews, tmp_path / "out.csv", explain=2, min_score=least)
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [json.loads(row["words"] or "null") for row in csv.DictReader(file)] == [row["words"] for row in table]
    with pytest.raises(OutputError, match="explain was 2, now 3"):
        edge_imdb.score(reviews, tmp_path / "out", explain=3, min_score=least)


# --- killed, stopped, hindered


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", ".csv", ".jsonl.gz"])
def test_kills_lose_nothing_and_change_no_byte(
    command_server: CommandServer, reviews: Path, tmp_path: Path, kind: str
) -> None:
    """A job is killed before a chosen step or at a random moment, and begun again until it is done."""
    arguments = ["score", str(reviews), "--part-rows", "5", "--output"]
    whole = tmp_path / "whole" / f"out{kind}"
    whole.parent.mkdir()
    steps = command_server.steps([*arguments, str(whole)], whole.parent)
    expected = files(whole) if not kind else whole.read_bytes()
    timed = tmp_path / f"timed{kind}"
    code, seconds = command_server.run([*arguments, str(timed)])
    assert code == 3, command_server.said
    draw, killed, repeated = random.Random(0), 0, 0
    moments: list[int | None] = [*spread(steps, 10_000 if SOAK else 8), *[None] * (50 if SOAK else 2)]
    for number, step in enumerate(moments):
        folder = tmp_path / f"job-{number}"
        folder.mkdir()
        target = folder / f"out{kind}"
        parts = target if not kind else target.with_name(target.name + ".parts")
        # Killed a second time, soon after it has gone on.
        for at in (step, 4, -1):
            before = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")} if parts.is_dir() else {}
            if at is None:
                code, _ = command_server.run([*arguments, str(target)], kill_after=draw.uniform(0.1, 1.0) * seconds)
            else:
                code = command_server.run_until([*arguments, str(target)], folder, at)
            after = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*")} if parts.is_dir() else None
            # A whole part is neither lost nor made again, unless all are joined and gone.
            repeated += sum(after[name] != before[name] for name in before) if after else 0
            assert after is None or set(before) <= set(after)
            killed += code == -9
            if code != -9:
                # A single file whose parts were gone when the kill came is whole, and not written a second time.
                assert code == 3 or (kind and "already exists" in command_server.said), command_server.said
                assert (files(target) if not kind else target.read_bytes()) == expected
        assert {path.name for path in folder.iterdir() if not path.name.endswith(".lock")} == {target.name}
    print(f"{kind}: {killed} killed, {len(moments)} finished, of {len(steps)} steps")
    assert repeated == 0 and killed >= len(moments) - 2


def test_ctrl_c_says_how_to_go_on(long_reviews: Path, tmp_path: Path) -> None:
    process = start(long_reviews, "--output", tmp_path / "out", "--part-rows", 20)
    wait_for_parts(process, tmp_path / "out")
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130 and "run the same command again" in err and "Traceback" not in err
    assert time.monotonic() - begun < 1
    assert all(parquet.read_metadata(path).num_rows == 20 for path in (tmp_path / "out").glob("part-*"))


def test_a_second_writer_is_refused_while_the_first_lives_and_status_tells(long_reviews: Path, tmp_path: Path) -> None:
    arguments = (long_reviews, "--output", tmp_path / "out", "--part-rows", 20)
    with start(*arguments) as first:
        wait_for_parts(first, tmp_path / "out", 2)
        second = run_command("score", *arguments)
        assert second.returncode == 1 and "Another process is writing" in second.stderr
        # The time left is known as soon as the rate is.
        while " left" not in (status := run_command("score", "--status", tmp_path / "out")).stdout:
            assert first.poll() is None, status.stdout
        assert "running" in status.stdout, status.stdout
        assert first.poll() is None, "the first is still at it"
        first.kill()
        first.wait()
    status = run_command("score", "--status", tmp_path / "out", "--json-progress")
    record = json.loads(status.stdout)
    assert record["running"] is False and record["rows"] == 20 * record["parts"] > 0
    assert (record["total"], record["of"]) == (2000, 100)


def test_a_full_disk_is_a_sentence_and_the_job_goes_on_when_there_is_room(reviews: Path, tmp_path: Path) -> None:
    edge_imdb.score(reviews, tmp_path / "whole", part_rows=5)
    with disk(tmp_path / "disk", 48) as small:
        result = run_command("score", reviews, "--output", small / "out", "--part-rows", 5)
        assert result.returncode == 1 and "Traceback" not in result.stderr
        assert "No space left on device" in result.stderr and "run the same command again" in result.stderr
        assert 0 < len(files(small / "out")) < 24
        subprocess.run(["mount", "-o", "remount,size=1m", str(small)], check=True)
        assert edge_imdb.score(reviews, small / "out", part_rows=5).labelled < 120
        assert files(small / "out") == files(tmp_path / "whole")


def test_a_read_only_disk_is_a_sentence(reviews: Path, tmp_path: Path) -> None:
    with disk(tmp_path / "disk", 64) as small:
        (small / "there").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        for output in (small / "out", small / "there", small / "out.csv"):
            with pytest.raises(OutputError, match="Read-only file system"):
                edge_imdb.score(reviews, output)


# --- another job


def test_another_job_is_refused_with_what_differs(reviews: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copy(reviews, tmp_path / "in.csv")
    edge_imdb.score(tmp_path / "in.csv", out, part_rows=50)
    before = files(out)
    with pytest.raises(OutputError, match="rows per part was 50, now 60"):
        edge_imdb.score(tmp_path / "in.csv", out, part_rows=60)
    with pytest.raises(OutputError, match="exact was False, now True"):
        edge_imdb.score(tmp_path / "in.csv", out, part_rows=50, exact=True)
    with pytest.raises(OutputError, match="column was text, now topic"):
        edge_imdb.score(tmp_path / "in.csv", out, part_rows=50, column="topic")
    with pytest.raises(OutputError, match="there were 1 input files, now 2"):
        edge_imdb.score([tmp_path / "in.csv", reviews], out, part_rows=50)
    with (tmp_path / "in.csv").open("a") as file:
        file.write("one more,pos\n")
    with pytest.raises(OutputError, match=r"in\.csv has other content"):
        edge_imdb.score(tmp_path / "in.csv", out, part_rows=50)
    assert files(out) == before
    assert edge_imdb.score(tmp_path / "in.csv", out, part_rows=60, overwrite=True).rows == 121
    assert len(files(out)) == 3


def test_an_input_that_changes_while_it_is_read_is_a_sentence(long_reviews: Path, tmp_path: Path) -> None:
    changing = Path(shutil.copy(long_reviews, tmp_path / "in.csv"))
    with start(changing, "--output", tmp_path / "out", "--part-rows", 20) as process:
        wait_for_parts(process, tmp_path / "out")
        with changing.open("a") as file:
            file.write("one more,pos\n")
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and "was changed while it was read" in err and "Traceback" not in err


def test_a_folder_or_file_of_something_else_is_left_alone(reviews: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear diary")
    (tmp_path / "mine.csv").write_text("dear diary")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"not parts of a job \(diary\.txt\)"):
            edge_imdb.score(reviews, tmp_path / "mine", overwrite=overwrite)
    with pytest.raises(OutputError, match="already exists: use --overwrite"):
        edge_imdb.score(reviews, tmp_path / "mine.csv")
    assert (tmp_path / "mine.csv").read_text() == "dear diary"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mine.csv"]


def test_the_output_may_not_lie_among_the_inputs(reviews: Path, tmp_path: Path) -> None:
    shutil.copy(reviews, tmp_path / "in.csv")
    with pytest.raises(UsageError, match="is inside the input"):
        edge_imdb.score(tmp_path, tmp_path / "out")
    with pytest.raises(UsageError, match="is inside the input"):
        edge_imdb.score(tmp_path / "in.csv", tmp_path / "in.csv")


def test_a_wrong_call_leaves_nothing_behind(reviews: Path, tmp_path: Path) -> None:
    wrong: list[tuple[dict[str, object], type[EdgeImdbError], str]] = [
        ({"column": "review"}, InputError, r"has no column 'review': it has 'text', 'topic'"),
        ({"part_rows": 0}, UsageError, "must be 1 or more"),
        ({"task": "translate"}, UsageError, "no task 'translate'"),
        ({"output_format": "xml"}, UsageError, "no output format 'xml'"),
        ({"explain": 0}, UsageError, "explain is 0: it must be 1 or more"),
        ({"min_score": float("nan")}, UsageError, "min_score is nan: it must be from 0 to 1"),
        ({"explain": 1, "task": "fill-mask"}, UsageError, "--explain is for sentiment"),
        ({"explain": 1, "precision": "fp32"}, UsageError, "needs the int8 graph"),
        ({"strict": True}, InputError, r"reviews\.csv line 8: The text is blank"),
    ]
    for options, error, words in wrong[:-1]:
        with pytest.raises(error, match=words):
            edge_imdb.score(reviews, tmp_path / "out", **options)  # type: ignore[arg-type]
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(wrong[-1][1], match=wrong[-1][2]):
        edge_imdb.score(reviews, tmp_path / "out", strict=True)
    with pytest.raises(OutputError, match="There is no job"):
        scoring.status(tmp_path / "nowhere")


# --- the command


def test_the_command_counts_and_exits_with_3_for_bad_rows(reviews: Path, tmp_path: Path) -> None:
    result = run_command("score", reviews, "--output", tmp_path / "out.csv", cwd=tmp_path)
    assert result.returncode == 3 and "Traceback" not in result.stderr
    assert "120 rows" in result.stdout and "1 with an error" in result.stdout
    status = run_command("score", "--status", tmp_path / "out.csv")
    assert (status.returncode, "out.csv is finished: its parts were joined." in status.stderr) == (1, True)
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 120 and rows[0]["label"] in ("pos", "neg") and 0.5 <= float(rows[0]["score"]) <= 1


def test_json_progress_is_one_object_a_line_and_ends_with_the_summary(reviews: Path, tmp_path: Path) -> None:
    result = run_command("score", reviews, "--output", tmp_path / "out", "--part-rows", 10, "--json-progress")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert lines[-1]["done"] and (lines[-1]["rows"], lines[-1]["errors"]) == (120, 1)
    assert {"rows", "total", "rows_per_second", "seconds_left", "parts", "of", "errors"} <= set(lines[0])


def test_standard_input_says_that_it_cannot_be_resumed_by_itself(tmp_path: Path) -> None:
    arguments = ("score", "-", "--output", tmp_path / "out.csv")
    result = run_command(*arguments, input="great film\n\nawful film\n")
    assert result.returncode == 3 and "can't be read twice" in result.stderr
    with (tmp_path / "out.csv").open(newline="") as file:
        assert [row["label"] for row in csv.DictReader(file)] == ["pos", "", "neg"]


def test_import_of_the_package_stays_light_and_score_is_the_function() -> None:
    code = "import sys, edge_imdb; heavy = {'numpy', 'pyarrow', 'onnxruntime', 'fsspec'} & set(sys.modules); "
    code += "import edge_imdb.scoring; print(heavy or callable(edge_imdb.score), 'ray' in sys.modules)"
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert result.stdout == "True False\n", result.stderr
