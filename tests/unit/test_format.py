"""Figures to words: rounding, units, and never a zero for what is not zero or not known."""

import re
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml.errors import SettingsError
from greenml.record import importers
from greenml.record.schema import Factor, Quantity, SourceRef
from greenml.reports import _format

FINITE = st.floats(min_value=1e-12, max_value=1e15)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (326.0, "5m 26s"),
        (0.0, "0s"),
        (7200.0, "2h 00m 00s"),
        (2631.05, "43m 51.05s"),
        (3723.4, "1h 02m 03.4s"),
        (4.7, "4.70s"),
        (59.994, "59.99s"),
        (59.996, "1m 00.00s"),
        (3599.996, "1h 00m 00.0s"),
        (3599.995, "1h 00m 00.0s"),
        (sum([32.6] * 10), "5m 26s"),
        (3723.0000000001, "1h 02m 03s"),
        (7199.96, "2h 00m 00.0s"),
        (0.0031, "0.0031s"),
        (363723.4, "101h 02m 03.4s"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert _format.duration(seconds) == text


@given(st.floats(min_value=1e-3, max_value=1e7))
def test_duration_reads_back_to_within_its_rounding(seconds: float) -> None:
    assert importers.duration(_format.duration(seconds)) == pytest.approx(seconds, abs=0.0501, rel=0.1)
    assert abs(importers.duration(_format.duration(seconds)) - seconds) <= (0.0501 if seconds >= 3599.99 else 0.00501)


@pytest.mark.parametrize(
    "text",
    ["43m51.05s", "2631.05", "43m 51.05s", "00:43:51.05", "43:51.05", " 2631.05 s ", "43 min 51.05 s", "0h43m51.05s"],
)
def test_duration_is_read_as_people_write_it(text: str) -> None:
    assert importers.duration(text) == 2631.05


def test_duration_of_hours() -> None:
    assert importers.duration("1h2m3s") == 3723
    assert importers.duration("1.5h") == 5400
    assert importers.duration("90m") == 5400


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "soon",
        "43m51",
        "-5",
        "0",
        "0h0m0s",
        "5s3m",
        "43,5m",
        "1:99",
        "1:75:00",
        "nan",
        "inf",
        "1e3",
        "1d",
        "43m 51m",
    ],
)
def test_duration_that_is_none_is_refused_with_what_is_right(text: str) -> None:
    with pytest.raises(SettingsError, match=r"43m51\.05s"):
        importers.duration(text)


@given(FINITE)
def test_number_is_close_fixed_and_never_zero(value: float) -> None:
    text = _format.number(value)
    assert re.fullmatch(r"\d+(\.\d*[1-9])?", text)
    assert float(text) == pytest.approx(value, rel=5.1e-6)


@given(FINITE, st.sampled_from([_format.energy, _format.mass, _format.money, _format.percent, _format.gigabytes]))
def test_what_is_not_zero_never_reads_as_zero(value: float, write) -> None:
    text = write(value)
    assert re.search(r"[1-9]", re.sub(r"CO2e", "", text))
    assert "e-" not in text
    assert "e+" not in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_format.energy(2448690.0), "0.6802 kWh"),
        (_format.energy(36000.0), "10.00 Wh"),
        (_format.energy(12.0), "12.00 J"),
        (_format.energy(0.0), "0 J"),
        (_format.mass(178.0249), "178.0 g CO2e"),
        (_format.mass(1780.249), "1.780 kg CO2e"),
        (_format.mass(0.012), "12.00 mg CO2e"),
        (_format.mass(4.2e6), "4.200 t CO2e"),
        (_format.money(16.1006), "$16.10"),
        (_format.money(0.00123), "$0.0012"),
        (_format.money(0.012734), "$0.013"),
        (_format.money(0.0996), "$0.10"),
        (_format.money(0.4), "$0.40"),
        (_format.money(12345.678), "$12,345.68"),
        (_format.percent(0.569), "56.9%"),
        (_format.percent(0.0), "0.0%"),
        (_format.gigabytes(30490e6), "30.49"),
        (_format.kilojoules(2448690.0), "2448.69"),
        (_format.number(1.2e-05), "0.000012"),
        (_format.plain("1.2e-05"), "0.000012"),
        (_format.plain("0.17802492531467784"), "0.17802492531467784"),
        (_format.plain("azure"), "azure"),
        (_format.plain("westeurope"), "westeurope"),
    ],
)
def test_units(text: str, expected: str) -> None:
    assert text == expected


@pytest.mark.parametrize(
    ("value", "low", "high", "write", "expected"),
    [
        (100.0, 95.0, 105.0, _format.energy, "95.00 to 105.0 J"),
        (270.0, 150.0, 390.0, _format.energy, "150.0 to 390.0 J"),
        (3.6e5, 3.4e5, 3.8e5, _format.energy, "0.09444 to 0.1056 kWh"),
        (1e3, 900.0, 1100.0, _format.mass, "0.9000 to 1.100 kg CO2e"),
        (1918.0, 54.86, 2944.0, _format.mass, "0.05486 to 2.944 kg CO2e"),
        (5.0, 0.001, 10.0, _format.mass, "1.000 mg CO2e to 10.00 g CO2e"),
        (5.0, 0.0, 1e4, _format.energy, "0 to 2.778 Wh"),
        (1.0, None, None, _format.energy, ""),
    ],
)
def test_an_interval_has_the_unit_of_its_value_unless_it_reaches_far(value, low, high, write, expected) -> None:
    quantity = Quantity(value=value, low=low, high=high, basis="measured")
    assert _format.interval_of(quantity, write) == expected


def test_unknown_is_said_with_its_reason() -> None:
    quantity = Quantity(value=None, basis="measured", why="no permission to read RAPL")
    assert _format.figure(quantity, _format.energy) == "not measured (no permission to read RAPL)"
    assert (
        _format.figure(Quantity(value=None, basis="assumed", why="no price"), _format.money) == "not known (no price)"
    )
    assert _format.figure(None, _format.money) == "not known"
    assert _format.figure(Quantity(value=0.0, basis="measured"), _format.energy) == "0 J"


def test_timestamp_is_utc_without_a_zone() -> None:
    moment = datetime(2021, 7, 6, 23, 57, 39, 900_000, tzinfo=timezone(timedelta(hours=2)))
    assert _format.timestamp(moment) == "2021-07-06T21:57:39"


def test_factor_carries_band_year_and_source() -> None:
    factor = Factor(
        value=286.9, low=200.0, high=400.0, unit="g CO2e/kWh", scope="egrid_subregion", code="NWPP", year=2022,
        basis="direct", source=SourceRef(name="eGRID", published="2024-01-30"),
    )  # fmt: skip
    expected = "286.9 g CO2e/kWh (200 to 400 g CO2e/kWh); egrid subregion NWPP, 2022, direct; source: eGRID, 2024-01-30"
    assert _format.factor(factor) == expected


def test_price_below_a_cent_is_not_rounded() -> None:
    price = Factor(
        value=0.0312, low=0.0312, high=0.0312, unit="USD/h", scope="sku", derived=True, source=SourceRef(name="list")
    )
    assert _format.price("spot", price) == "spot $0.0312 (sku, derived, list)"
