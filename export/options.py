"""ExportOptions: every option of an export, with its default and its help text."""

from __future__ import annotations

from dataclasses import dataclass

from ..edge_graph.schedule import Schedule
from ..edge_graph.targets import TARGETS
from ..errors import UsageError
from ..options import option


@dataclass(frozen=True)
class ExportOptions:
    """The options of ``edge-imdb export``."""

    quantize: bool = option(False, "Add the int8 graph, the one that runs on a CPU.")
    max_drop: float = option(0.5, "Sentiment: percentage points of validation accuracy that int8 may lose.")
    max_loss_rise: float = option(
        0.02, "Sentiment: nats by which int8 may raise the validation log loss; more on fewer than 1,000 reviews."
    )
    max_rise: float = option(3.0, "Fill-mask: percent by which int8 may raise validation perplexity.")
    target: str = option(
        "portable",
        "CPU to build the int8 graph for. portable and avx2 use 7-bit weights, which are safe on every CPU. "
        "avx512-vnni and arm64 use 8 bits: a little closer to fp32, but wrong scores on an x86 CPU without VNNI. auto "
        "is the CPU of this machine.",
        ("auto", *TARGETS),
    )
    token_dropping: str | None = option(
        None,
        "Sentiment: share of the tokens that the int8 graph keeps after each layer but the last, such as "
        "1,1,0.5,0.3,0.2, instead of what the run was trained with.  [default: the run's]",
    )
    data: str | None = option(None, "Training data, if it has moved since the run.  [default: the run's]")
    no_fp32: bool = option(False, "Leave the fp32 graph out of the bundle.")
    overwrite: bool = option(False, "Replace an existing bundle.")

    def check(self) -> None:
        """Raise UsageError for the first option that is out of range."""
        if self.target not in ("auto", *TARGETS):
            raise UsageError(f"There is no target {self.target!r}: use auto, {', '.join(TARGETS)}.")
        if not 0 <= self.max_drop <= 100:
            raise UsageError(f"--max-drop is {self.max_drop}: it must be between 0 and 100 points.")
        for name, value, unit in (
            ("--max-loss-rise", self.max_loss_rise, "nats"),
            ("--max-rise", self.max_rise, "percent"),
        ):
            if not 0 <= value < float("inf"):
                raise UsageError(f"{name} is {value}: it must be 0 {unit} or more.")
        if self.token_dropping is not None:
            Schedule.parse(self.token_dropping)
            if not self.quantize:
                raise UsageError("--token-dropping is for the int8 graph: give --quantize too, or leave it out.")
        if self.no_fp32 and not self.quantize:
            raise UsageError("--no-fp32 without --quantize would leave no graph: give both.")
