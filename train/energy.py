"""EnergyMeter: time, electricity and CO2 of a run, by codecarbon offline, added up over interruptions."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from codecarbon import OfflineEmissionsTracker
from codecarbon.input import DataSource
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..errors import UsageError


def check_country(code: str) -> None:
    """Raise UsageError if codecarbon has no electricity mix for a country; it would silently use the world's."""
    if code not in DataSource().get_global_energy_mix_data():
        raise UsageError(f"--country is {code!r}: give an ISO code of three letters, such as USA, DEU or IND.")


class EnergyMeter(TrainerCallback):
    """Measures from its creation until ``stop``, and saves its values with every checkpoint."""

    def __init__(self, path: Path, country: str) -> None:
        logging.getLogger("codecarbon").disabled = True
        self._path = path
        self._before = json.loads(path.read_text()) if path.exists() else {}
        self._start = time.perf_counter()
        self._tracker = OfflineEmissionsTracker(
            country_iso_code=country, save_to_file=False, log_level="critical", allow_multiple_runs=True
        )
        self._tracker.start()

    def _total(self) -> dict[str, float]:
        # codecarbon has no public way to read the energy of a running tracker.
        data: Any = getattr(self._tracker, "final_emissions_data", None) or self._tracker._prepare_emissions_data()
        now = {
            "seconds": time.perf_counter() - self._start,
            "energy_kwh": float(data.energy_consumed),
            "co2_kg": float(data.emissions),
        }
        return {name: value + self._before.get(name, 0.0) for name, value in now.items()}

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self.save()

    def save(self) -> None:
        """Save what the run has cost so far, for the process that resumes it."""
        self._tracker.flush()
        partial = self._path.with_suffix(".tmp")
        partial.write_text(json.dumps(self._total()))
        partial.replace(self._path)

    def stop(self) -> dict[str, float]:
        """``seconds``, ``energy_kwh`` and ``co2_kg`` of the run so far."""
        self._tracker.stop()
        return self._total()
