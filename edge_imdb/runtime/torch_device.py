"""computes_bf16: whether PyTorch's device is faster in bf16. Importing this module doesn't import PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def computes_bf16(device: str | None = None) -> bool:
    """Whether ``device`` is faster in bf16 than in fp32: a GPU that has it, or a CPU with AMX or AMD's AVX-512.

    ``device`` is ``"cuda"`` or ``"cpu"``; None means a GPU if there is one.
    """
    import torch

    if device != "cpu" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device is None and torch.backends.mps.is_available():
        return False
    # AVX-512's bf16 instructions make up for the conversions on some CPUs: a fill-mask step at width 384 took 1.34 s
    # in bf16 and 2.45 s in fp32 on an AMD EPYC (Zen 4), but 2.63 s and 1.59 s on a Sapphire Rapids whose AMX was off.
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    if has_amx is not None and has_amx():
        return True
    # An older PyTorch can't say.
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16")) and "AMD" in capabilities["cpu_name"]
