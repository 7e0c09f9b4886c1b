"""What a benchmark runs on: the CPU, the versions, and the speed of int8 matrix products."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = (
    "edge-imdb",
    "onnxruntime",
    "numpy",
    "tokenizers",
    "torch",
    "transformers",
    "optimum",
    "optimum-onnx",
    "openvino",
    "nncf",
    "ctranslate2",
    "scikit-learn",
)


def describe() -> dict[str, Any]:
    """CPU, cores, the instruction sets that matter for int8, system and versions."""
    name, flags = platform.processor() or platform.machine(), []
    if (info := Path("/proc/cpuinfo")).exists():
        text = info.read_text(encoding="utf-8", errors="replace")
        name = next(
            (line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")), name
        )
        known = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "asimddp", "i8mm")
        flags = [flag for flag in known if f" {flag} " in text.replace("\n", " ")]
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "flags": flags,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


def int8_rate(threads: int) -> float:
    """Multiply-adds per second of ONNX Runtime's int8 matrix product, the best of several sizes."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    best = 0.0
    for rows, inner, columns in ((512, 768, 3072), (1024, 1024, 1024), (512, 3072, 768), (2048, 2048, 2048)):
        weight = np.random.default_rng(0).integers(-63, 64, (inner, columns)).astype(np.int8)
        graph = helper.make_graph(
            [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
            "product",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, inner])],
            [helper.make_tensor_value_info("y", TensorProto.INT32, [rows, columns])],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        feed = {"x": np.random.default_rng(1).integers(0, 256, (rows, inner)).astype(np.uint8)}
        for _ in range(12):
            start = time.perf_counter()
            session.run(None, feed)
            best = max(best, rows * inner * columns / (time.perf_counter() - start))
    return best


def peak_mib() -> float:
    """Peak resident memory of this process, in MiB."""
    import resource
    import sys

    if (status := Path("/proc/self/status")).exists():
        # On Linux, ru_maxrss includes the parent's memory at the start of this process; VmHWM doesn't.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
