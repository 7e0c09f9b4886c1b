"""TARGETS and resolve_target: the CPUs that the int8 graph can be built for."""

from __future__ import annotations

import platform
from pathlib import Path

from ..errors import UsageError

# Bits of the weights. A CPU without VNNI adds pairs of u8 x s8 products in 16 bits, which 8-bit weights can overflow,
# so the same review would get a different score there. 7 bits fit on every CPU.
TARGETS = {"portable": 7, "avx2": 7, "avx512-vnni": 8, "arm64": 8}


def resolve_target(target: str) -> str:
    """A key of TARGETS; ``auto`` means the CPU of this machine. Raises UsageError for an unknown name.

    >>> resolve_target("arm64")
    'arm64'
    """
    if target == "auto":
        if platform.machine().lower() in ("aarch64", "arm64"):
            return "arm64"
        try:
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split()
        except OSError:
            return "portable"
        return "avx512-vnni" if "avx512_vnni" in flags else "portable"
    if target not in TARGETS:
        raise UsageError(f"There is no target {target!r}: use auto, {', '.join(TARGETS)}.")
    return target
