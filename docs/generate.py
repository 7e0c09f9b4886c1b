"""Write the generated parts of README.md and docs/*.md: python docs/generate.py

A generated part stands between two HTML comments, of which the first names the part and its sources:

    <!-- generated: lengths latency-768.json 2 -->
    ...
    <!-- end -->

The help texts and the output of commands come from the program, the figures from the embedded bundles and from
benchmarks/results. tests/test_docs.py fails if a part differs from what this script would write, and if one of these
pages states a figure outside a generated part. So after a new bundle or a new benchmark this one command is enough.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "docs")]

from quality import RUNS  # noqa: E402 - it is in benchmarks
from reference import error_table, reference  # noqa: E402 - it is beside this file

BLOCK = re.compile(r"(<!-- generated: (.*?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
PEER = "transformers pipeline (PyTorch eager)"
# Figures that others published, with their source.
DISTILBERT = "[Sanh et al. 2019](https://arxiv.org/abs/1910.01108), table 2"
DISTILBERT_ACCURACY = 0.9282
DENIRO_PERPLEXITY = (17.38, 16.28, 15.78)


def pages() -> list[Path]:
    """The pages with generated parts."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def write(page: str) -> str:
    """The text of a page with every generated part written anew."""

    def part(match: re.Match[str]) -> str:
        name, *arguments = shlex.split(match[2])
        return f"{match[1]}{PARTS[name](*arguments).strip()}\n{match[4]}"

    return BLOCK.sub(part, page)


def result(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / name).read_text(encoding="utf-8"))
    return found


def embedded(task: str) -> dict[str, Any]:
    """The manifest of an embedded bundle."""
    found: dict[str, Any] = json.loads((ROOT / "edge_imdb" / "models" / task / "edge.json").read_text(encoding="utf-8"))
    return found


def mib(task: str) -> str:
    return f"{sum(file['bytes'] for file in embedded(task)['files'].values()) / 2**20:.1f} MiB"


def shape(task: str) -> str:
    config = json.loads((ROOT / "edge_imdb" / "models" / task / "config.json").read_text(encoding="utf-8"))
    return f"{config['n_layers']} layers of width {config['dim']}"


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def rows(*lines: tuple[str, ...]) -> str:
    """A Markdown table; the first line is its heading."""
    heading, *rest = lines
    return "\n".join(f"| {' | '.join(line)} |" for line in (heading, ("---",) * len(heading), *rest))


# From the program.


def help_text(*names: str) -> str:
    """The help of a command, as it looks in a terminal of 100 columns."""
    from edge_imdb.cli.main import cli

    command: click.Command = cli
    context = click.Context(command, info_name="edge-imdb", terminal_width=100, **cli.context_settings)
    for name in names:
        assert isinstance(command, click.Group)
        found = command.get_command(context, name)
        assert found is not None, name
        command = found
        context = click.Context(command, info_name=name, parent=context, terminal_width=100)
    return f"```\n$ {' '.join(('edge-imdb', *names, '--help'))}\n{command.get_help(context)}\n```"


def output(*arguments: str) -> str:
    """A command with embedded bundles, and what it prints."""
    from edge_imdb.cli.main import cli

    runner = CliRunner()
    environment = {name: None for name in os.environ if name.startswith("EDGE_IMDB")}
    # Away from ./models, which a command would prefer to the embedded bundles.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        found = runner.invoke(cli, list(arguments), env=environment, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    # Double quotes, as people type them.
    shown = " ".join(word if re.fullmatch(r"[\w./-]+", word) else f'"{word}"' for word in arguments)
    return f"```\n$ edge-imdb {shown}\n{found.stdout.strip()}\n```"


def api(module: str, *names: str) -> str:
    """The reference of public names of a module."""
    return "\n\n".join(reference(module, name) for name in names)


def limits() -> str:
    from limits import markdown

    found: str = markdown()
    return found


# Quality.


def exported() -> str:
    """What export measured on the validation texts of the embedded sentiment bundle, step by step."""
    metrics = embedded("sentiment")["metrics"]
    steps = {
        "validation_fp32": "fp32",
        "validation_int8": "int8, all the work",
        "validation_int8_token_dropping": "int8, with token dropping",
        "validation_int8_early_exit": "int8, as it runs, with the early exit too",
    }
    groups = metrics["validation_fp32"]["groups"]
    heading = ("", *(f"{name}, {group['reviews']:,}" for name, group in groups.items()), "all", "log loss (nats)")
    lines = []
    for key, shown in steps.items():
        found = metrics[key]
        own = [f"{percent(one['accuracy'])} ({percent(one['calibration_error'])})" for one in found["groups"].values()]
        lines.append((shown, *own, percent(found["accuracy"]), f"{found['log_loss']:.4f}"))
    return rows(heading, *lines)


def measured(run: str) -> dict[str, Any]:
    """What benchmarks/quality.py measured in one of its RUNS; {} if that run was left out."""
    if run not in RUNS:
        raise KeyError(run)
    return dict(result("quality.json")["runs"].get(run, {}))


def fill_mask_on_test() -> tuple[dict[str, Any], str]:
    """The embedded model's figures on test, and of which precision they are; a run may have left its own out."""
    if found := measured("fill-mask"):
        return found, "int8"
    return embedded("fill-mask")["metrics"]["test_pytorch"], "before quantization"


def quality() -> str:
    """README's table."""
    sentiment, exact = (measured(run) for run in ("sentiment", "sentiment --exact"))
    fill, precision = fill_mask_on_test()
    return rows(
        ("", "size", "test reviews", "result"),
        ("sentiment", mib("sentiment"), f"{sentiment['reviews']:,}", f"accuracy **{percent(sentiment['accuracy'])}**"),
        *(
            [("sentiment with `--exact`", "", f"{exact['reviews']:,}", f"accuracy {percent(exact['accuracy'])}")]
            if exact
            else []
        ),
        (
            f"for comparison: DistilBERT, 6 x 768 ({DISTILBERT})",
            "",
            "25,000",
            f"accuracy {percent(DISTILBERT_ACCURACY)}",
        ),
        (
            "fill-mask" if precision == "int8" else f"fill-mask {precision}",
            mib("fill-mask"),
            "25,000",
            f"perplexity **{fill['perplexity']:.2f}**, top-5 accuracy {percent(fill['top5'])}",
        ),
    )


_FORMS: dict[str, Callable[[float], str]] = {
    "f1": percent,
    "log_loss": "{:.4f}".format,
    "calibration_error": percent,
}


def sentiment() -> str:
    metrics = embedded("sentiment")["metrics"]

    def line(name: str, figures: dict[str, float]) -> tuple[str, ...]:
        others = (form(figures[key]) if key in figures else "" for key, form in _FORMS.items())
        return (name, percent(figures["accuracy"]), *others)

    heading = ("", "accuracy", "F1 (macro)", "log loss (nats)", "calibration error")
    before = "before quantization, PyTorch"
    card = (ROOT / "edge_imdb" / "models" / "sentiment" / "README.md").read_text(encoding="utf-8")
    trained = re.search(r"^\| `token_dropping` \| ([\d.,]+) \|$", card, re.MULTILINE)
    if trained and trained[1] != ",".join(f"{share:g}" for share in embedded("sentiment")["token_dropping"]["kept"]):
        before = f"before quantization, PyTorch, with the schedule of its training ({trained[1]})"
    return (
        f"The embedded bundle has {shape('sentiment')} and {mib('sentiment')}. On the "
        f"{measured('sentiment')['reviews']:,} test reviews:\n\n"
        + rows(
            heading,
            line("embedded, int8", measured("sentiment")),
            *([line("with `--exact`", exact)] if (exact := measured("sentiment --exact")) else []),
            *([line(before, metrics["test_pytorch"])] if "test_pytorch" in metrics else []),
            (f"DistilBERT, 6 x 768 ({DISTILBERT})", percent(DISTILBERT_ACCURACY), "", "", ""),
        )
        + f"\n\nOn the {metrics['validation_fp32']['reviews']:,} held-out validation reviews, at export:\n\n"
        + rows(
            heading,
            line("fp32 ONNX", metrics["validation_fp32"]),
            line("int8, `--exact`", metrics["validation_int8"]),
            *(
                [line("int8, token dropping", metrics[name])]
                if (name := "validation_int8_token_dropping") in metrics
                else []
            ),
            *(
                [line("int8, as it runs, with the early exit too", metrics[name])]
                if (name := "validation_int8_early_exit") in metrics
                else []
            ),
        )
        + by_kind()
        + coverage()
        + f"\n\nThe fp32 graph's logits differ from PyTorch's by {metrics['fp32_max_difference']:.1e} at most."
    )


def by_kind() -> str:
    """The embedded bundle on texts of other kinds."""
    kinds = (
        ("reviews of IMDb, test", "sentiment"),
        ("sentences, SST-2 validation", "sentiment, sentences"),
        ("counterfactual reviews, validation", "sentiment, counterfactual"),
    )
    found = [(name, measured(run)) for name, run in kinds]
    lines = [
        (
            name,
            f"{figures['reviews']:,}",
            percent(figures["accuracy"]),
            *(form(figures[key]) if key in figures else "" for key, form in _FORMS.items()),
        )
        for name, figures in found
        if figures
    ]
    if len(lines) < 2:
        return ""
    return (
        "\n\nBy kind of text, int8 as it runs by default. The validation texts also chose the checkpoint and the "
        "temperature:\n\n"
        + rows(("", "texts", "accuracy", "F1 (macro)", "log loss (nats)", "calibration error"), *lines)
    )


def coverage() -> str:
    """How many test reviews get a label as --min-score goes up, and how many of those are right."""
    curve = measured("sentiment").get("coverage")
    if not curve:
        return ""
    return "\n\nWith `--min-score`, on the test reviews:\n\n" + rows(
        ("`--min-score`", *(f"{row['min_score']:g}" for row in curve)),
        ("reviews that get a label", *(f"{100 * row['coverage']:.1f} %" for row in curve)),
        (
            "right among them",
            *("none" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f} %" for row in curve),
        ),
    )


def fill_mask() -> str:
    metrics = embedded("fill-mask")["metrics"]

    def line(name: str, figures: dict[str, float]) -> tuple[str, ...]:
        return (
            name,
            f"{figures['tokens']:,.0f}",
            f"{figures['perplexity']:.2f}",
            percent(figures["top1"]),
            percent(figures["top5"]),
        )

    run = measured("fill-mask")
    return (
        f"The embedded bundle has {shape('fill-mask')} and {mib('fill-mask')}.\n\n"
        + rows(
            ("", "masked tokens", "perplexity", "top-1", "top-5"),
            *([line("test: embedded, int8", run)] if run else []),
            *(
                [line("test: before quantization, PyTorch", metrics["test_pytorch"])]
                if "test_pytorch" in metrics
                else []
            ),
            line("validation: fp32 ONNX", metrics["validation_fp32"]),
            line("validation: int8", metrics["validation_int8"]),
        )
        + f"\n\nThe fp32 graph's logits differ from PyTorch's by {metrics['fp32_max_difference']:.1e} at most."
    )


def deniro() -> str:
    found, precision = fill_mask_on_test()
    one, two, three = (f"{value:.2f}" for value in DENIRO_PERPLEXITY)
    return rows(
        ("", "epoch 1", "epoch 2", "epoch 3", "finished"),
        ("DistilBERT-DeNiro, 6 x 768", one, two, three, three),
        (f"embedded, {precision}, {shape('fill-mask')}", "", "", "", f"{found['perplexity']:.2f}"),
    )


# Speed.


def machine(name: str) -> str:
    """What a benchmark ran on, in a sentence."""
    found = result(name)["machine"]
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    return (
        f"[{name}](../benchmarks/results/{name}): {found['cpu']}, {found['cores']} cores "
        f"({', '.join(found['flags'])}), Python {found['python']}; {versions}."
    )


def speed() -> str:
    """README's table."""
    report, cold = result("latency-384.json"), result("cold_start.json")["contenders"]
    found, cpu = report["threads"]["2"]["real"], report["machine"]["cpu"]
    starts = {"edge-imdb int8": "edge-imdb predict", PEER: "transformers pipeline, 6 x 768"}
    left_out = (", 6 x 768", "torch.compile)", "--exact", "fp32", "rest", "previous bundle")
    lines = []
    for name, row in found.items():
        if name.endswith(left_out) or name.startswith("scikit"):
            continue
        start = f"{cold[starts[name]]['seconds']:.2f} s" if name in starts else ""
        bold = "**" if name == "edge-imdb int8" else ""
        lines.append(
            (
                name.replace(", as it chooses", ""),
                f"{bold}{row['mean']:.1f} ms{bold}",
                f"{row['ratio']:.2f}",
                f"{report['memory_mib'][name]:.0f} MiB",
                start,
            )
        )
    heading = ("", "mean per review", "times ours", "peak memory", "cold start to label")
    return f"{report['reviews']} test reviews on 2 cores of an {cpu}, one at a time:\n\n" + rows(heading, *lines)


def lengths(name: str, threads: str) -> str:
    from latency import length_rows

    return "\n".join(length_rows(result(name)["threads"][threads]))


def reviews(name: str, threads: str) -> str:
    from latency import review_rows

    report = result(name)
    return "\n".join(review_rows(report, report["threads"][threads]["real"]))


def fastest(*names: str) -> str:
    """The fastest peer's time divided by ours, one line per machine and number of threads."""
    lines = []
    for name in names:
        report = result(name)
        for threads, record in report["threads"].items():
            ratios = []
            for figures in record["lengths"].values():
                peer = min((n for n in figures if not n.startswith("edge-imdb")), key=lambda n, f=figures: f[n]["p50"])
                ratios.append(figures[peer]["ratio"])
            cells = [f"{ratio:.2f}" for ratio in (*ratios, statistics.geometric_mean(ratios))]
            plural = "" if threads == "1" else "s"
            lines.append((f"{report['machine']['cpu']}, {threads} thread{plural} (`{name}`)", *cells))
    return rows(("tokens", *result(names[0])["threads"]["1"]["lengths"], "geometric mean"), *lines)


def own_table(module: str, name: str, function: str = "table") -> Callable[[], str]:
    """The table that a benchmark prints, made from its results."""

    def part() -> str:
        table: Callable[[dict[str, Any]], Iterator[str]] = getattr(__import__(module), function)
        return "\n".join(table(result(name)))

    return part


def printed(module: str, name: str) -> Callable[[], str]:
    """What a benchmark prints, made from its results."""

    def part() -> str:
        table: Callable[[dict[str, Any]], str] = __import__(module).table
        return table(result(name))

    return part


def score_table() -> str:
    """What edge-imdb score costs, and what it aims at."""
    found = result("score.json")
    rate, ray, memory = found["rate"], found["ray"], found["memory"]
    killed = found["killed"]
    lines = [
        (
            f"rate over `Sentiment.stream(workers={rate['workers']})`, {rate['reviews']:,} reviews, in turns",
            "at least 0.95",
            f"{rate['ratio']:.2f} ({rate['score']['median']:.1f} and {rate['stream']['median']:.1f} "
            "reviews per second)",
        ),
        *(
            (
                f"peak memory at 1,000,000 rows of {kind} over 10,000, labels made up",
                "at most 1.10",
                f"{memory[f'{kind} ratio']:.2f} ({memory[f'{kind} 1000000']['mib']:.0f} MiB)",
            )
            for kind in ("parquet", "csv")
            if f"{kind} ratio" in memory
        ),
        (
            f"Ray, {ray['actors']} actors on {found['machine']['cores']} cores, over the local run, warm",
            "at least 0.85",
            f"{ray['ratio']:.2f} ({ray['ray']['median']:.1f} and {ray['local']['median']:.1f} reviews per second)",
        ),
        (
            f"all {killed['rows']:,} unsupervised reviews of IMDb, one `kill -9` after {killed['killed_after']:,}",
            "",
            f"{killed['labelled_twice']} rows labelled twice, by the last line of progress; "
            f"{', '.join(f'{count:,} {label}' for label, count in killed['labels'].items())}, "
            f"{killed['errors']} with an error",
        ),
    ]
    return rows(("", "aim", "measured"), *lines)


def serve_table() -> str:
    """What edge-imdb serve holds, and what it aims at."""
    found = result("serve.json")
    throughput, overload, soak = found["throughput"]["rows"], found["overload"]["rows"], found.get("soak")
    slow, gone, drain, ready = (found[name] for name in ("slow_clients", "disconnects", "drain", "ready"))
    connections = ", ".join(str(row["connections"]) for row in throughput)

    def each(measured: list[dict[str, Any]], name: str, form: Callable[[float], str]) -> str:
        return ", ".join(form(row[name]) for row in measured)

    return rows(
        ("", "aim", "measured"),
        (
            f"rate over `Sentiment.stream(workers=2)` in the process, in turns, at {connections} connections",
            "at least 0.9",
            f"{each(throughput, 'rate_over_in_process', '{:.2f}'.format)} "
            f"({each(throughput, 'rate', '{:.1f}'.format)} reviews per second)",
        ),
        (
            "CPU per request over the same",
            "at most 1.1",
            f"{each(throughput, 'cpu_over_in_process', '{:.2f}'.format)} "
            f"({each(throughput, 'cpu_ms', '{:.1f}'.format)} ms)",
        ),
        (
            f"goodput at {' and '.join(str(row['times']) for row in overload)} times the capacity",
            "at least 85 %, 70 %",
            each([{"share": 100 * row["goodput"]} for row in overload], "share", "{:.0f} %".format),
        ),
        (
            "there: 99th percentile of a 429",
            "at most 50 ms",
            f"{each(overload, 'p99_429_ms', '{:.1f}'.format)} ms, "
            f"median {each(overload, 'p50_429_ms', '{:.1f}'.format)} ms",
        ),
        (
            "there: 99th percentile of what was taken",
            "at most 10 s",
            each([{"s": row["p99_taken_ms"] / 1000} for row in overload], "s", "{:.1f} s".format),
        ),
        (
            f"{slow['connections']} slow-loris connections gone; the slowest /health meanwhile",
            "11 s; 50 ms",
            f"{slow['gone']} in {slow['last_gone_s']:.1f} s; {slow['health_max_ms']:.0f} ms",
        ),
        (
            f"texts that still run after {gone['requests']} clients with {gone['texts']} texts went away",
            f"at most {gone['workers']}",
            f"{gone['texts_run_after']:.0f}",
        ),
        (
            f"SIGTERM with {drain['in_flight']} in flight; a second signal",
            f"{drain['in_flight']} answers; at once",
            f"{drain['answered']}; {drain['second_signal_s']:.2f} s",
        ),
        (
            f"ready, both models (sentiment alone), median of {len(ready['both']['seconds'])}",
            "1 s",
            f"{ready['both']['median_s']:.2f} s ({ready['sentiment']['median_s']:.2f} s)",
        ),
        *(
            [
                (
                    f"memory over {soak['requests']:,} requests, after the first {soak['after']:,} (`make soak`)",
                    "at most + 5 %",
                    f"{100 * soak['growth']:+.1f} % ({soak['largest_mib']:.0f} MiB; {soak['cpu']})",
                )
            ]
            if soak
            else []
        ),
    )


def serve_beside() -> str:
    """edge-imdb serve beside other servers with the same weights: ranges over the runs, which took turns."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for row in result("serve.json")["beside"]["rows"]:
        runs.setdefault(row["name"], []).append(row)

    def span(values: list[float], form: Callable[[float], str]) -> str:
        return "-".join(dict.fromkeys(form(value) for value in (min(values), max(values))))

    return rows(
        ("", "runs", "start", "memory, MiB", "reviews/s", "CPU per review, ms", "texts of 60 characters/s"),
        *(
            (
                name,
                str(len(each)),
                span([row["start_s"] for row in each], "{:.1f}".format) + " s",
                span([row["mib"] for row in each], "{:.0f}".format),
                span([row["reviews, 64 connections"]["rate"] for row in each], "{:.1f}".format),
                span([row["reviews, 64 connections"]["cpu_ms"] for row in each], "{:.1f}".format),
                span([row["60 characters, 64 connections"]["rate"] for row in each], "{:.0f}".format),
            )
            for name, each in runs.items()
        ),
    )


def scale_table() -> str:
    """Reviews an hour by nodes, from the measured cost of a review and of a row."""
    found = result("score.json")
    core = found["rate"]["score"]["median"] / found["rate"]["workers"]
    share = min(found["ray"]["ratio"], 1.0)
    driver = found["memory"]["parquet 1000000"]["rows_per_second"]
    lines = []
    for nodes in (1, 4, 16, 64, 256):
        cores = 16 * nodes
        wanted = cores * core * (share if nodes > 1 else 1)
        got = min(wanted, driver)
        limit = "cores" if got == wanted else "the driver"
        lines.append((f"{nodes}", f"{cores:,}", f"{got:,.0f}", f"{3600 * got / 1e6:,.1f}", limit))
    return rows(("nodes of 16 cores", "cores", "reviews per second", "million per hour", "saturated"), *lines)


def scale_costs() -> str:
    found = result("score.json")
    core = found["rate"]["score"]["median"] / found["rate"]["workers"]
    driver = found["memory"]["parquet 1000000"]["rows_per_second"]
    return (
        f"On {found['machine']['cores']} cores of {found['machine']['cpu']} a core labels {core:.1f} reviews of IMDb "
        f"per second ({1000 / core:.1f} ms each), and one driver reads, joins and writes {driver:,.0f} rows per second "
        f"({1e6 / driver:.0f} µs each). So a driver feeds about {driver / core:,.0f} cores."
    )


PARTS: dict[str, Callable[..., str]] = {
    "help": help_text,
    "output": output,
    "api": api,
    "errors": error_table,
    "limits": limits,
    "quality": quality,
    "exported": exported,
    "sentiment": sentiment,
    "fill-mask": fill_mask,
    "deniro": deniro,
    "machine": machine,
    "speed": speed,
    "lengths": lengths,
    "reviews": reviews,
    "fastest": fastest,
    "cold-start": own_table("cold_start", "cold_start.json"),
    "throughput": own_table("throughput", "throughput.json"),
    "parts": own_table("parts", "parts.json"),
    "teachers": own_table("teachers", "teachers.json"),
    "parts-fill-mask": own_table("parts", "parts-fill-mask.json", "fill_mask_table"),
    "explain": printed("explain", "explain.json"),
    "web": printed("web", "web.json"),
    "label-errors": own_table("label_errors", "label_errors.json"),
    "score": score_table,
    "serve": serve_table,
    "serve-beside": serve_beside,
    "scale": scale_table,
    "scale-costs": scale_costs,
}


if __name__ == "__main__":
    for page in pages():
        text = page.read_text(encoding="utf-8")
        page.write_text(write(text), encoding="utf-8")
