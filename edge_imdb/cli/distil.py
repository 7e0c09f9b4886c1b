"""distil: a large classifier and texts without labels, to a small bundle, in one command that can be continued."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from ..data.datasets import read_texts, sources_of
from ..data.labels import known_as
from ..data.splits import sample
from ..data.tables import iter_values, require
from ..data.text import clean, is_blank
from ..errors import DataError, OutputError
from ..output import check_free, locked, whole_file, write_text
from ..runtime.bundle import EMBEDDED, MANIFEST, open_bundle
from ..runtime.hub import fetch_checkpoint, go_offline_if_unreachable, is_repository
from ..tasks.sentiment import TASK
from ..train.options import SentimentOptions
from .common import import_extra, options_of, say
from .score import _time

STATE = "distil.json"
# Fewer texts than this can't be split and learnt from.
LEAST = 50
# Share of the texts that the student never sees, to compare it with its teacher; at least and at most so many.
HELD, HELD_LEAST, HELD_MOST = 0.05, 20, 2000
# Of each text, with --sentences: single sentences of so many words, and a passage of so many sentences.
SINGLES, WORDS, PASSAGE = 2, (3, 50), (2, 4)
# Texts whose time is measured, one by one.
TIMED = 32
# Options of `edge-imdb train sentiment` that are the same here.
PASSED_ON = (
    "layers", "epochs", "batch_size", "tokens_per_batch", "learning_rate", "warmup", "weight_decay", "max_length",
    "head_ratio", "token_dropping", "truncated_copies", "spans", "distillation_temperature", "hard_share", "weights",
    "text_column", "label_column", "delimiter", "leave_out", "validation", "evaluations_per_epoch", "interpolation",
    "precision", "seed", "country",
)  # fmt: skip
# Options that may change when a job is continued.
_FREE = ("country", "rows", "max_drop", "max_loss_rise", "provider", "overwrite", "output")


@click.command()
@click.argument("teacher")
@click.argument("texts", metavar="TEXTS...", nargs=-1, required=True)
@click.option("--output", default="models/sentiment", show_default=True, help="Folder to write the bundle to.")
@click.option("--run", "folder", default="runs/distil", show_default=True, help="Folder of the unfinished work.")
@click.option("--column", default="text", show_default=True, help="Column of TEXTS that holds the texts.")
@click.option(
    "--split", multiple=True, default=("train",), show_default=True, help="Splits to read of a data set on the Hub."
)
@click.option("--sentences", is_flag=True, help="Also learn from single sentences and short passages cut from TEXTS.")
@click.option("--data", multiple=True, help="Labelled texts to learn from too, as for edge-imdb train sentiment.")
@click.option("--base", help="What the student starts from, as for train.  [default: the embedded bundle]")
@click.option(
    "--temperature",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    show_default=True,
    help="Divide the teacher's logits by this number before the softmax.",
)
@click.option("--provider", default="auto", show_default=True, help="Where the teacher runs: auto, cpu or cuda.")
@click.option("--max-drop", default=0.5, show_default=True, help="Points of accuracy or agreement that int8 may lose.")
@click.option(
    "--max-loss-rise", default=0.02, show_default=True, help="Nats by which int8 may raise the validation log loss."
)
@click.option("--rows", metavar="FILE", help="Write the held-out texts, those first where the two differ most.")
@click.option("--overwrite", is_flag=True, help="Start again, and replace an existing bundle.")
@options_of(SentimentOptions, "training", only=PASSED_ON)
def distil(
    teacher: str,
    texts: tuple[str, ...],
    output: str,
    folder: str,
    column: str,
    split: tuple[str, ...],
    sentences: bool,
    data: tuple[str, ...],
    base: str | None,
    temperature: float,
    provider: str,
    max_drop: float,
    max_loss_rise: float,
    rows: str | None,
    overwrite: bool,
    training: SentimentOptions,
) -> None:
    """Distil a large classifier into a small int8 bundle.

    TEACHER is the folder or the Hub id of any classifier of transformers that has safetensors. TEXTS are files, folders
    or Hub data sets; labels in them are not read. The teacher labels the texts, a DistilBERT learns the probabilities,
    and the bundle is written if it passes the gate of edge-imdb export. To continue after Ctrl-C or a kill, run the
    same command again.

    \b
    edge-imdb distil teachers/mpnet reviews.parquet --output models/sentiment
    edge-imdb distil teachers/mpnet reviews/ --sentences --data labelled.csv --rows differ.csv
    """
    options = {
        name: value for name, value in locals().items() if name not in ("teacher", "texts", "folder", "training")
    }
    _distil(Job(teacher, texts, Path(folder), options, training))


@dataclass
class Job:
    """A run of ``distil``. ``options`` has the values of the command's own options, by name."""

    teacher: str
    texts: tuple[str, ...]
    folder: Path
    options: dict[str, Any]
    training: SentimentOptions
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def student(self) -> SentimentOptions:
        """The options of the training."""
        return dataclasses.replace(
            self.training,
            base=self.options["base"] or str(EMBEDDED / TASK.name),
            # A student is a DistilBERT, because the edge graph is one.
            architecture="distilbert",
            data=self.options["data"] or None,
            scored=str(self.folder / "labels"),
            output=str(self.folder / "student"),
            skip_test=True,
        )

    @property
    def column(self) -> str:
        """The column of the texts in the job's own tables: the one that the training looks for."""
        return sources_of(self.training.text_column)[0]

    def done(self, step: str) -> bool:
        return step in self.state["steps"]

    def finish(self, step: str, **facts: Any) -> None:
        """Remember that ``step`` is done, before anything depends on it."""
        self.state["steps"][step] = facts
        self.write()

    def write(self) -> None:
        write_text(self.folder / STATE, json.dumps(self.state, indent=1, ensure_ascii=False) + "\n")


def _distil(job: Job) -> None:
    from ..scoring.teacher import check_teacher, labels_of, teacher_sha256

    options, output = job.options, Path(job.options["output"])
    require("pyarrow", "pyarrow", "edge-imdb distil")
    if options["rows"] is not None:
        import_extra("edge_imdb.scoring.rows", "score").check_rows(options["rows"], *job.texts)
    job.student.check()
    go_offline_if_unreachable(job.teacher, *job.texts, *options["data"], job.student.base)
    teacher = fetch_checkpoint(job.teacher) if is_repository(job.teacher) else Path(job.teacher)
    # What is wrong with the teacher is said before hours of work.
    labels = labels_of(check_teacher(teacher))
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(job.folder):
        _open(job, teacher_sha256(teacher), output)
        if not job.done("texts"):
            _read(job, labels)
        for name in ("labels", "held-labels", "data-labels"):
            if not job.done(name) and (job.folder / f"{name}.parquet").exists():
                _label(job, name, teacher)
        if not job.done("train"):
            _train(job)
        if not job.done("export"):
            _export(job, output)
        if not job.done("compare") or options["rows"] is not None:
            _compare(job, teacher, output)
    click.echo("\n".join(summary(job.state["steps"]["compare"])))


def _open(job: Job, teacher: str, output: Path) -> None:
    """Begin the job, or find where it was stopped. Raises OutputError if the folder has another job."""
    path = job.folder / STATE
    training = {name: getattr(job.training, name) for name in PASSED_ON if name not in _FREE}
    own = {name: value for name, value in job.options.items() if name not in _FREE}
    # As JSON gives it back.
    record = json.loads(json.dumps({"teacher": teacher, "texts": _stamps(job.texts), **own, **training}))
    if path.exists() and not job.options["overwrite"]:
        try:
            job.state = json.loads(path.read_text(encoding="utf-8"))
            before, _ = job.state["job"], job.state["steps"]
        except (ValueError, KeyError, TypeError):
            raise OutputError(f"{path} can't be read: start again with --overwrite.") from None
        differ = [name for name in record if before.get(name) != record[name]]
        if differ:
            raise OutputError(
                f"{job.folder} has another job, whose {', '.join(differ)} differ: give another --run, or start again "
                "with --overwrite."
            )
        say(f"continuing in {job.folder}; done: {', '.join(job.state['steps']) or 'nothing yet'}")
    else:
        if job.folder.is_dir() and any(job.folder.iterdir()):
            if not path.exists():
                raise OutputError(f"{job.folder} contains files that are not of a distil job: give another --run.")
            shutil.rmtree(job.folder)
        job.folder.mkdir(parents=True, exist_ok=True)
        job.state = {"edge-imdb distil": 1, "job": record, "steps": {}}
    ours = job.done("export") or "exporting" in job.state
    if not ours:
        check_free(output, job.options["overwrite"], "bundle", MANIFEST)
    job.write()


def _stamps(names: Sequence[str]) -> dict[str, Any]:
    """The size and the time of each input file, so that changed texts are noticed; None for a data set on the Hub."""
    from ..scoring.storage import glob

    stamps: dict[str, Any] = {}
    for name in names:
        if is_repository(name):
            stamps[name] = None
            continue
        for file in glob(name)[0]:
            status = Path(file.name).stat()
            stamps[file.name] = [status.st_size, status.st_mtime_ns]
    return stamps


def texts_of(names: Sequence[str], column: str, splits: Sequence[str]) -> Iterator[str]:
    """Every text of files, folders and Hub data sets that isn't blank, in order. Raises InputError, HubError."""
    from ..scoring.storage import glob

    for name in names:
        values: Iterable[Any]
        if is_repository(name):
            values = (text for split in splits for text in read_texts(name, split, column))
        else:
            values = (value for file in glob(name)[0] for _, value in iter_values(Path(file.name), column))
        for value in values:
            if isinstance(value, str) and not is_blank(value):
                yield value


def parts_of(text: str) -> list[str]:
    """Single sentences and a short passage of a text of three sentences or more, the same whenever it is cut.

    >>> parts_of("A great film.")
    []
    >>> [len(part) > 0 for part in parts_of("I came early. The hall was cold. The film was great. I went home late.")]
    [True, True, True]
    """
    from ..tasks.sentiment.attribution import split_sentences

    sentences = split_sentences(text)
    if len(sentences) < 3:
        return []
    draw = random.Random(hashlib.sha256(clean(text).encode("utf-8", "replace")).digest())
    single = [sentence for sentence in sentences if WORDS[0] <= len(sentence.split()) <= WORDS[1]]
    parts = draw.sample(single, min(SINGLES, len(single)))
    count = min(draw.randint(*PASSAGE), len(sentences) - 1)
    start = draw.randrange(len(sentences) - count + 1)
    return [*parts, " ".join(sentences[start : start + count])]


def _read(job: Job, labels: list[str]) -> None:
    """Write the texts to learn from, those held out to compare on, and the labelled validation texts of --data."""
    say("reading the texts")
    distinct: dict[str, str] = {}
    for text in texts_of(job.texts, job.options["column"], job.options["split"]):
        distinct.setdefault(clean(text), text)
    if len(distinct) < LEAST:
        raise DataError(f"{', '.join(job.texts)} has {len(distinct)} different texts: give at least {LEAST}.")
    texts = list(distinct.values())
    count = min(HELD_MOST, max(HELD_LEAST, round(HELD * len(texts))))
    chosen = set(sample(texts, count, job.training.seed))
    groups: dict[str, list[str]] = {"labels": [], "held-labels": []}
    for index, text in enumerate(texts):
        group = groups["held-labels" if index in chosen else "labels"]
        group.append(text)
        if job.options["sentences"]:
            group += [part for part in parts_of(text) if not is_blank(part)]
    # A sentence that occurs on both sides would be compared on what was learnt.
    held = {clean(text) for text in groups["held-labels"]}
    learnt = {clean(text): text for text in groups["labels"] if clean(text) not in held}
    _write_table(job.folder / "labels.parquet", {job.column: list(learnt.values())})
    _write_table(
        job.folder / "held-labels.parquet", {job.column: list({clean(t): t for t in groups["held-labels"]}.values())}
    )
    facts = {"texts": len(learnt), "held": len(held)}
    if job.options["data"]:
        facts["data"] = _read_data(job, labels)
    say("; ".join(f"{name}: {number:,}" for name, number in facts.items()))
    job.finish("texts", **facts)


def _read_data(job: Job, labels: list[str]) -> int:
    """Write the validation texts of --data with their labels. Raises DataError if its labels aren't the teacher's."""
    from ..data.corpus import load_corpus
    from ..train.options import hyperparameters

    validation = load_corpus(hyperparameters(job.student)).validation
    unknown = [name for name in labels if known_as(name, validation.names) not in validation.names]
    if unknown or len(labels) != len(validation.names):
        raise DataError(
            f"The labels of --data are {', '.join(validation.names)}, but the teacher's are {', '.join(labels)}: name "
            "them alike, in the column or in id2label of the teacher's config.json."
        )
    names = [validation.names[label] for label in validation.labels]
    _write_table(job.folder / "data-labels.parquet", {job.column: validation.texts, "given": names})
    return len(names)


def _write_table(path: Path, columns: Mapping[str, Sequence[str]]) -> None:
    import pyarrow
    from pyarrow import parquet

    # Lone surrogates can't be stored.
    kept = {name: [text.encode("utf-8", "replace").decode() for text in texts] for name, texts in columns.items()}
    with whole_file(path) as temporary:
        parquet.write_table(pyarrow.table(kept), temporary, compression="zstd")


def _label(job: Job, name: str, teacher: Path) -> None:
    from .. import scoring

    bar = Bar({"labels": "label", "held-labels": "label held-out texts", "data-labels": "label --data"}[name])

    def report(record: dict[str, Any]) -> None:
        if record["phase"] == "score":
            bar.update(record["rows"], record["total"])

    done = scoring.score(
        job.folder / f"{name}.parquet",
        job.folder / name,
        column=job.column,
        model=teacher,
        provider=job.options["provider"],
        temperature=job.options["temperature"],
        all_scores=True,
        report=report,
        say=say,
    )
    bar.close()
    job.finish(name, rows=done.rows, errors=done.errors, counts=done.labels, seconds=round(done.seconds, 1))


def _train(job: Job) -> None:
    options, bar = job.student, Bar("train")
    finished = job.folder / "student" / TASK.name
    if not (finished / "metrics.json").exists():
        # A run that was stopped before its first checkpoint starts again.
        partial = finished.with_name("sentiment.partial")
        resume = any(partial.glob("checkpoint-*/trainer_state.json"))
        train = import_extra("edge_imdb.train.sentiment", "train").train_sentiment
        train(dataclasses.replace(options, resume=resume), say, bar.update)
    bar.close()
    job.finish("train")


def _export(job: Job, output: Path) -> None:
    from ..export.options import ExportOptions

    # A kill may fall between the bundle's appearance and the next write of the state.
    again = "exporting" in job.state and (output / MANIFEST).exists()
    job.state["exporting"] = True
    job.write()
    bar = Bar("export")
    stages = iter(range(1, 8))

    def told(line: str) -> None:
        bar.close()
        say(line)
        bar.update(next(stages, 7), 8)

    export = import_extra("edge_imdb.export.pipeline", "export").export_run
    chosen = ExportOptions(
        quantize=True,
        max_drop=job.options["max_drop"],
        max_loss_rise=job.options["max_loss_rise"],
        overwrite=job.options["overwrite"] or again,
    )
    export(TASK.name, job.folder / "student" / TASK.name, output, chosen, told)
    bar.close()
    job.finish("export")


def _compare(job: Job, folder: Path, output: Path) -> None:
    """Measure the student beside its teacher, on the held-out texts and on the validation texts of --data."""
    import numpy as np

    from ..scoring.teacher import Teacher
    from ..tasks.sentiment.pipeline import Sentiment

    student = Sentiment(output)
    texts, theirs, _ = _answers(job, "held-labels", student.labels)
    bar = Bar("compare")
    ours = _predict(student, texts, bar)
    facts: dict[str, Any] = {
        "held": len(texts),
        "agreement": float((ours.argmax(1) == theirs.argmax(1)).mean()),
        "difference": float(np.abs(ours - theirs).sum(1).mean() / 2),
    }
    if job.done("data-labels"):
        labelled, teachers, given = _answers(job, "data-labels", student.labels)
        truth = np.array([student.labels.index(known_as(name, student.labels)) for name in given])
        students = _predict(student, labelled, bar)
        facts["data"] = len(labelled)
        facts["accuracy"] = [float((found.argmax(1) == truth).mean()) for found in (teachers, students)]
    bar.close()
    teacher = Teacher(folder, job.options["provider"])
    timed = texts[:TIMED]
    facts["milliseconds"] = [
        _milliseconds(lambda text: teacher.logits([text]), timed),
        _milliseconds(student.probabilities, timed),
    ]
    weights = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    facts["bytes"] = [weights, open_bundle(output, TASK.name).size("int8")]
    facts["runs"] = [f"{teacher.precision} on {teacher.device}", f"{student.precision} on cpu"]
    facts["output"] = str(output)
    job.finish("compare", **facts)
    if job.options["rows"] is not None:
        table = differences(texts, theirs, ours, student.labels)
        import_extra("edge_imdb.scoring.rows", "score").write_rows(job.options["rows"], table)
        say(f"wrote {job.options['rows']}")


def _answers(job: Job, name: str, labels: list[str]) -> tuple[list[str], Any, list[str]]:
    """The texts that the teacher labelled, its probabilities in the order of ``labels``, and the labels given."""
    import numpy as np
    from pyarrow import parquet

    texts: list[str] = []
    rows: list[list[float]] = []
    given: list[str] = []
    for part in sorted((job.folder / name).glob("part-*.parquet")):
        for row in parquet.read_table(part).to_pylist():
            if row["scores"] is None:
                continue
            shares = {known_as(label, labels): share for label, share in row["scores"].items()}
            texts.append(row[job.column])
            rows.append([shares[label] for label in labels])
            given.append(row.get("given", ""))
    return texts, np.array(rows), given


def _predict(student: Any, texts: Sequence[str], bar: Bar) -> Any:
    import numpy as np

    rows = []
    for number, text in enumerate(texts, 1):
        rows.append(student.probabilities(text))
        bar.update(number, len(texts))
    return np.array(rows)


def _milliseconds(run: Callable[[str], Any], texts: Sequence[str]) -> float:
    """Mean time of a text, one at a time, after the first."""
    run(texts[0])
    start = time.perf_counter()
    for text in texts:
        run(text)
    return 1000 * (time.perf_counter() - start) / len(texts)


def differences(texts: Sequence[str], theirs: Any, ours: Any, labels: Sequence[str]) -> dict[str, list[Any]]:
    """A table of the texts, those first where teacher and student differ most.

    ``theirs`` and ``ours`` are probabilities, *shape:* ``(texts, labels)``. ``difference`` is half the sum of the
    absolute differences, from 0 to 1 (the total variation distance).

    >>> import numpy as np
    >>> sure, unsure = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[0.0, 1.0], [0.25, 0.75]])
    >>> table = differences(["Fine.", "Dull."], sure, unsure, ["neg", "pos"])
    >>> table["text"], table["teacher"], table["student"], table["difference"]
    (['Dull.', 'Fine.'], ['neg', 'pos'], ['pos', 'pos'], [0.75, 0.0])
    """
    distance = abs(theirs - ours).sum(axis=1) / 2
    order = sorted(range(len(texts)), key=lambda i: (-distance[i], i))
    return {
        "text": [texts[i] for i in order],
        "teacher": [labels[theirs[i].argmax()] for i in order],
        "teacher_score": [float(theirs[i].max()) for i in order],
        "student": [labels[ours[i].argmax()] for i in order],
        "student_score": [float(ours[i].max()) for i in order],
        "difference": [float(distance[i]) for i in order],
    }


def summary(facts: Mapping[str, Any]) -> list[str]:
    """The table at the end."""
    rows = [
        ("", "teacher", "student"),
        ("runs", *facts["runs"]),
        ("size", *(f"{size / 1e6:.1f} MB" for size in facts["bytes"])),
        ("time of a text", *(f"{value:.1f} ms" for value in facts["milliseconds"])),
    ]
    if "accuracy" in facts:
        rows.append(
            (
                f"accuracy, {facts['data']:,} validation texts of --data",
                *(f"{100 * a:.2f} %" for a in facts["accuracy"]),
            )
        )
    rows.append(
        (f"agreement with the teacher, {facts['held']:,} held-out texts", "", f"{100 * facts['agreement']:.2f} %")
    )
    widths = [max(len(row[at]) for row in rows) for at in range(3)]
    lines = [f"{name:{widths[0]}}  {one:>{widths[1]}}  {two:>{widths[2]}}" for name, one, two in rows]
    return [*lines, f"wrote {facts['output']}"]


class Bar:
    """The progress of a step: a line that is redrawn on a terminal, elsewhere a new line every half minute."""

    def __init__(self, label: str) -> None:
        self._label, self._terminal = label, sys.stderr.isatty()
        self._next = time.monotonic() + (0 if self._terminal else 30)
        self._start: tuple[float, int] | None = None
        self._open = False

    def update(self, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done, and the time left at the rate of this run."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, done)
        if now < self._next:
            return
        self._next = now + (0.2 if self._terminal else 30)
        since, before = self._start
        left = f", {_time((total - done) * (now - since) / (done - before))} left" if done > before else ""
        filled = 20 * done // max(1, total)
        text = f"{self._label}  [{'#' * filled}{'-' * (20 - filled)}]  {done:,} of {total:,}{left}"
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()
            self._open = True
        else:
            say(text)

    def close(self) -> None:
        """End the line."""
        if self._open:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._open = False
