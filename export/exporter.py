"""Exporter: the steps of an export that differ between tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ..edge_graph.schedule import Schedule
from ..errors import UsageError
from ..runtime.behaviour import EarlyExit
from .options import ExportOptions

# The number of train texts that calibrate the edge graph.
CALIBRATION = 64

Model = TypeVar("Model")
Figures = dict[str, Any]


class Exporter(ABC, Generic[Model]):
    """The steps of an export that differ between tasks; see ``export_run``."""

    name: ClassVar[str]

    def __init__(self, source: Path, metrics: dict[str, Any]) -> None:
        self.source, self.metrics = source, metrics

    @abstractmethod
    def read(self, options: dict[str, Any]) -> list[str]:
        """Read the run's reviews, by the run's options, and return the texts of its validation split."""

    @abstractmethod
    def open(self, folder: Path, precision: str, exact: bool = False) -> Model:
        """Open the bundle in ``folder`` on the CPU. ``exact`` turns early exit and token dropping off."""

    @abstractmethod
    def behaviour(self, folder: Path) -> dict[str, Any]:
        """The fields of edge.json that the task's runtime needs."""

    @abstractmethod
    def difference(self, fp32: Model) -> float:
        """The largest difference between the logits of the fp32 graph and PyTorch's on validation."""

    @abstractmethod
    def calibration(self, fp32: Model) -> list[Sequence[int]]:
        """Token ids of train texts that calibrate the edge graph."""

    @abstractmethod
    def measure(self, model: Model) -> Figures:
        """The figures of a graph on validation."""

    @abstractmethod
    def describe(self, figures: Figures) -> str:
        """One line about figures."""

    @abstractmethod
    def check_gate(self, fp32: Figures, int8: Figures, options: ExportOptions) -> None:
        """Raise GateError if int8 loses more than ``options`` allow."""

    def mask_id(self, fp32: Model) -> int | None:
        """The id of ``[MASK]``, if the edge graph needs it."""
        return None

    def reschedule(self, schedule: Schedule) -> None:
        """Replace the run's schedule of token dropping with ``schedule``. Raises UsageError if the task has none."""
        raise UsageError(f"--token-dropping is for sentiment, and this is {self.name}: leave it out.")

    def recalibrate(self, int8: Model) -> None:
        """Fit the parameters that depend on the schedule, such as the temperature, on the validation texts."""

    @property
    def schedule(self) -> Schedule | None:
        """The schedule of token dropping: that of ``reschedule``, or else of the run. None keeps all tokens."""
        return None

    def early_exit(self, int8: Model) -> EarlyExit | None:
        """The early exit to store in the bundle; None for none."""
        return None
