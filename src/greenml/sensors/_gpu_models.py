"""What the bundled table knows of a GPU model's power sensor."""

from __future__ import annotations

import re

from greenml import tables
from greenml.errors import FactorError

MAKERS = re.compile(r"^(nvidia|tesla|quadro) ", re.IGNORECASE)
SENSOR_COLUMNS = ("architecture", "power_update_period_ms", "power_window_ms", "nvml_get_power_usage")
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


def sensor_timing(row: tables.Row, *, averaged: bool) -> tuple[float | None, float]:
    """Return the power gauge's update period in seconds (None: not known) and the share of time that it sees.

    Args:
        row: of ``find``.
        averaged: power is read as the driver's average, where the model has one.

    Source: Yang, Adamek, Armour, SC24, arXiv 2312.02741; the rows say which were inferred.
    """
    period = tables.number(row.get("power_update_period_ms", ""))
    window = tables.number(row.get("power_window_ms", ""))
    if averaged and row.get("nvml_get_power_usage") == "average_1s":
        window = AVERAGE_WINDOW_MS
    if not period:
        return None, 1.0
    return period / 1000.0, min(1.0, window / period) if window else 1.0


def _plain(model: str) -> str:
    return MAKERS.sub("", model.strip()).lower()


def _family(model: str) -> str:
    first = re.split(r"[ -]", _plain(model))[0]
    return first if any(letter.isdigit() for letter in first) else model  # "GeForce" is a brand, not a family
