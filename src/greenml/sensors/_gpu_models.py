"""What the bundled table knows of a GPU model's power sensor."""

from __future__ import annotations

import re
from dataclasses import dataclass

from greenml import tables
from greenml.errors import FactorError

MAKERS = re.compile(r"^(nvidia|tesla|quadro) ", re.IGNORECASE)
SENSOR_COLUMNS = ("architecture", "power_update_period_ms", "power_window_ms", "nvml_get_power_usage")
STEP_MS = 100.0  # where the table has no row; seen: 10 to 100 ms (SC24, as below)
AVERAGE_WINDOW_MS = 1000.0  # of nvmlDeviceGetPowerUsage where the table says average_1s


def find(name: str, architecture: str = "") -> tables.Row:
    """Return a model's row; else the columns that its family (A100), or its whole architecture, agree in.

    Args:
        name: as the driver gives it, with or without the maker.
        architecture: as the table spells it, empty where not known.
    """
    try:
        rows = tables.rows("gpus")
    except FactorError:
        return {}
    for row in rows:
        if _plain(name) in (_plain(one) for one in (row["gpu_model"], *row["alias"].split(";")) if one):
            return row
    kin = [row for row in rows if _family(row["gpu_model"]) == _family(name)]
    kin = kin or [row for row in rows if architecture and row["architecture"] == architecture]
    return {column: kin[0][column] for column in SENSOR_COLUMNS if len({row[column] for row in kin}) == 1}


@dataclass(frozen=True, slots=True)
class Timing:
    """When a model's sensor tells what.

    Attributes:
        step_seconds: between two updates of its counter or gauge.
        window_seconds: before each update, over which the gauge's power is the mean.
    """

    step_seconds: float
    window_seconds: float

    @property
    def seen_ratio(self) -> float:
        """Return the share of time that the gauge sees."""
        return min(1.0, self.window_seconds / self.step_seconds)

    def lag_seconds(self, *, gauge: bool, dated: bool) -> float:
        """Return how old what it tells is, on the mean.

        Args:
            gauge: power, of half the window before its update; else a counter.
            dated: the driver tells when the update was; else it is anything from 0 to a step ago.
        """
        return (self.window_seconds * gauge + self.step_seconds * (not dated)) / 2


def sensor_timing(row: tables.Row, *, averaged: bool) -> Timing:
    """Return the timing of a model's sensor; where it is not known, a step of 0.1 s of which all is seen.

    Args:
        row: of ``find``.
        averaged: power is read as the driver's average, where the model has one.

    Source: Yang, Adamek, Armour, SC24, arXiv 2312.02741; the rows say which were inferred.
    """
    period = tables.number(row.get("power_update_period_ms", "")) or STEP_MS
    window = tables.number(row.get("power_window_ms", "")) or period
    if averaged and row.get("nvml_get_power_usage") == "average_1s":
        window = AVERAGE_WINDOW_MS
    return Timing(period / 1000.0, window / 1000.0)


def _plain(model: str) -> str:
    return MAKERS.sub("", model.strip()).lower()


def _family(model: str) -> str:
    first = re.split(r"[ -]", _plain(model))[0]
    return first if any(letter.isdigit() for letter in first) else model  # "GeForce" is a brand, not a family
