"""The fill-mask edge graph against the standard one: python benchmarks/fill_mask.py

A DistilBERT masked LM with random weights, which don't change the time, is quantized in three ways: by optimum's
recipe, which leaves the projection in fp32 because it is the embedding matrix transposed in the graph; the same with
the projection in int8 too; and as our edge graph, whose head runs only at [MASK]. One text at a time with one mask; the
contenders take turns. Needs the extras export and cpu.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from command import run_as_command
from machine import describe

MASK_ID = 103
CONTENDERS = ("standard int8", "standard int8, int8 projection", "edge int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=768, help="width of the model")
    parser.add_argument("--layers", type=int, default=6, help="its layers")
    parser.add_argument("--lengths", default="16,128,512", help="tokens per text, separated by commas")
    parser.add_argument("--rounds", type=int, default=40, help="number of runs of each contender at each length")
    parser.add_argument("--threads", type=int, default=2, help="threads per text")
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        graphs = build(Path(scratch), options.dim, options.layers)
        files = {name: graph.parent.glob(graph.name + "*") for name, graph in graphs.items()}
        sizes = {name: sum(file.stat().st_size for file in found) / 2**20 for name, found in files.items()}
        rows = measure(graphs, [int(n) for n in options.lengths.split(",")], options.rounds, options.threads)
    report = {
        "machine": describe(),
        "layers": options.layers,
        "dim": options.dim,
        "threads": options.threads,
        "rounds": options.rounds,
        "mib": sizes,
        "median_ms": {str(length): row for length, row in rows.items()},
    }
    print("\n".join(table(report)))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def table(report: dict[str, Any]) -> Iterator[str]:
    """The report as a Markdown table."""
    rows, (*others, edge) = report["median_ms"], report["mib"]
    yield f"| | MiB | {' | '.join(f'{length} tokens' for length in rows)} |"
    yield f"|---|---|{'---|' * len(rows)}"
    for name, size in report["mib"].items():
        yield f"| {name} | {size:.1f} | {' | '.join(f'{row[name]:.2f}' for row in rows.values())} |"
    for other in others:
        ratios = " | ".join(f"{row[other] / row[edge]:.2f}" for row in rows.values())
        yield f"| {other}, times edge int8 | | {ratios} |"


def build(folder: Path, dim: int, layers: int) -> dict[str, Path]:
    """Export a random model and quantize it in three ways; returns the path of each contender's graph."""
    import onnxruntime
    import torch
    from optimum.exporters.onnx import onnx_export_from_model
    from transformers import DistilBertConfig, DistilBertForMaskedLM

    from edge_imdb.edge_graph.write import write_edge

    for name in ("optimum", "transformers", "torch.onnx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    torch.manual_seed(0)
    config = DistilBertConfig(dim=dim, hidden_dim=4 * dim, n_heads=12, n_layers=layers)
    model = DistilBertForMaskedLM(config).eval()
    with torch.no_grad():
        # The biases of a new model are all 0, and the exporter merges equal weights.
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        onnx_export_from_model(model, folder / "fp32", task="fill-mask", do_validation=False)
        standard = folder / "fp32" / "model.onnx"
        # This turns the transposed embedding matrix into a weight of its own.
        settings = onnxruntime.SessionOptions()
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        settings.optimized_model_filepath = str(folder / "untied.onnx")
        settings.log_severity_level = 4
        onnxruntime.InferenceSession(standard, settings, providers=["CPUExecutionProvider"])
        paths = {name: folder / f"contender-{number}.onnx" for number, name in enumerate(CONTENDERS)}
        quantize(standard, paths[CONTENDERS[0]])
        quantize(folder / "untied.onnx", paths[CONTENDERS[1]])
        model.save_pretrained(folder / "checkpoint")
        texts = [[101, *range(2000, 2100), MASK_ID, 102]]
        write_edge(folder / "checkpoint", paths[CONTENDERS[2]], "fill-mask", mask_id=MASK_ID, calibration=texts)
    return paths


def quantize(source: Path, target: Path) -> None:
    """int8 as in optimum's recipes, per channel and with 7 bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The quantizer recommends a pre-processing step that changes nothing for these graphs.
    logging.getLogger().addFilter(lambda record: "pre-process" not in record.getMessage())
    operators = ["Gather", "MatMul"]
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=operators,
        per_channel=True,
        reduce_range=True,
        weight_type=QuantType.QInt8,
    )


def measure(graphs: dict[str, Path], lengths: list[int], rounds: int, threads: int) -> dict[int, dict[str, float]]:
    """Median milliseconds of each contender at each length, the contenders taking turns."""
    import numpy as np
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    # Otherwise the idle threads of one contender would spin on the cores that the next one needs.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    sessions = {}
    for name, graph in graphs.items():
        levels = onnxruntime.GraphOptimizationLevel
        # As the runtime opens it, because the optimiser would make the edge graph slower.
        edge = name == CONTENDERS[-1]
        settings.graph_optimization_level = levels.ORT_DISABLE_ALL if edge else levels.ORT_ENABLE_ALL
        sessions[name] = onnxruntime.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    table: dict[int, dict[str, float]] = {}
    for length in lengths:
        ids = generator.integers(1000, 30000, size=(1, length))
        ids[0, length // 2] = MASK_ID
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        feeds = {name: {node.name: inputs[node.name] for node in s.get_inputs()} for name, s in sessions.items()}
        times: dict[str, list[float]] = {name: [] for name in sessions}
        for number in range(rounds + 3):
            for name, session in sessions.items():
                start = time.perf_counter()
                session.run(None, feeds[name])
                if number >= 3:
                    times[name].append(1000 * (time.perf_counter() - start))
        table[length] = {name: statistics.median(values) for name, values in times.items()}
    return table


if __name__ == "__main__":
    run_as_command(main)
