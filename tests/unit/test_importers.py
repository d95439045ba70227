"""Importers: nothing rounded, nothing counted twice, nothing guessed in silence."""

import copy
import csv
import json
import os
import pickle
from datetime import datetime, timezone
from pathlib import Path

import pytest

from greenml.cli import main
from greenml.errors import FactorError, RecordError, SettingsError
from greenml.factors import csv_intensity
from greenml.record import file as record_file
from greenml.record import importers
from greenml.record.importers import azure_monitor, codecarbon, published_table, trainer_output
from greenml.record.schema import PlaceRecord, Quantity, RunRecord, Totals

GOLDEN = Path(__file__).parents[1] / "golden" / "t5-3b-samsum"

OLD = {
    "timestamp": "2021-07-06T21:57:39",
    "experiment_id": "a",
    "project_name": "codecarbon",
    "duration": "100.0",
    "emissions": "0.03",
    "energy_consumed": "0.1",
    "country_name": "USA",
    "country_iso_code": "USA",
    "region": "washington",
    "on_cloud": "Y",
    "cloud_provider": "azure",
    "cloud_region": "westus2",
}
NEW = OLD | {
    "experiment_id": "5b0fa12a-3dd7-45bb-9766-cc326314d9f1",
    "run_id": "r1",
    "cpu_energy": "0.02",
    "gpu_energy": "0.07",
    "ram_energy": "0.01",
    "gpu_model": "8 x Tesla V100-SXM2-32GB",
    "cpu_model": "Xeon",
    "tracking_mode": "machine",
    "pue": "1.0",
    "water_consumed": "0.0",
}


def emissions(folder: Path, *rows: dict[str, str]) -> Path:
    path = folder / "emissions.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def metric(
    name: str, series: list[list[dict]], dimension: str = "deviceid", unit: str = "Count", **more: object
) -> dict:
    listed = []
    for index, points in enumerate(series):
        names = {dimension: str(index)} if dimension == "RunId" else {"runid": "run-1", dimension: str(index)}
        listed.append(
            {
                "data": [
                    {"timeStamp": f"2021-07-06T21:{15 + minute}:00Z"} | point for minute, point in enumerate(points)
                ],
                "metadatavalues": [{"name": {"value": name}, "value": value} for name, value in names.items()],
            }
        )
    return {
        "interval": "0:01:00",
        "timespan": "2021-07-06T20:00:00Z/2021-07-06T23:00:00Z",
        "value": [{"name": {"value": name}, "unit": unit, "errorCode": "Success", "timeseries": listed} | more],
    }


def export(folder: Path, *contents: object) -> list[Path]:
    paths = []
    for index, content in enumerate(contents):
        paths.append(folder / f"metrics-{index}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


# CodeCarbon


def test_row_of_version_1_is_kept_as_text(tmp_path: Path) -> None:
    part = codecarbon.load(emissions(tmp_path, OLD | {"emissions": "1.2000000000000001e-05"}))
    assert part.reported[0].row["emissions"] == "1.2000000000000001e-05"
    assert part.reported[0].scope == "train"
    assert part.devices == []
    assert part.started == datetime(2021, 7, 6, 21, 55, 59, tzinfo=timezone.utc)
    assert part.place["state"] == "Washington"


def test_energies_of_the_parts_belong_to_the_training_phase(tmp_path: Path) -> None:
    run = importers.load(codecarbon=emissions(tmp_path, NEW), duration_seconds=300)
    usage = run.phases[0].usage
    assert {name: value.energy_joules for name, value in usage.items()} == pytest.approx(
        {"codecarbon-gpu": 252_000, "codecarbon-cpu": 72_000, "codecarbon-dram": 36_000}
    )
    assert all(device.usage.energy_joules is None for device in run.devices)
    assert run.devices[0].usage.why == "CodeCarbon covers the training phase only"


def test_training_that_is_the_run_gives_the_run_its_energies(tmp_path: Path) -> None:
    run = importers.load(codecarbon=emissions(tmp_path, NEW), duration_seconds=102)
    assert run.devices[0].usage.energy_joules == pytest.approx(252_000)
    assert run.devices[0].usage.covered_seconds == 100


def test_pue_is_taken_out_of_the_devices_but_not_of_the_row(tmp_path: Path) -> None:
    part = codecarbon.load(emissions(tmp_path, NEW | {"pue": "1.4", "gpu_energy": "0.098"}))
    assert part.phases[0].usage["codecarbon-gpu"].energy_joules == pytest.approx(252_000)
    assert part.reported[0].row["gpu_energy"] == "0.098"
    assert "1.4" in part.devices[0].note


def test_zero_of_a_device_is_not_measured(tmp_path: Path) -> None:
    part = codecarbon.load(emissions(tmp_path, NEW | {"gpu_energy": "0"}))
    assert part.phases[0].usage["codecarbon-gpu"].energy_joules is None
    assert "could not read the GPU" in part.phases[0].usage["codecarbon-gpu"].why
    without = codecarbon.load(emissions(tmp_path, NEW | {"gpu_energy": "0", "gpu_model": ""}))
    assert "codecarbon-gpu" not in without.phases[0].usage


def test_rows_of_one_run_are_cumulative(tmp_path: Path) -> None:
    first = NEW | {"duration": "50.0", "energy_consumed": "0.05", "timestamp": "2021-07-06T21:56:49"}
    part = codecarbon.load(emissions(tmp_path, first, NEW))
    assert part.reported[0].row["energy_consumed"] == "0.1"
    assert part.notes == []


def test_runs_one_after_the_other_take_the_last_and_say_so(tmp_path: Path) -> None:
    later = NEW | {"run_id": "r2", "timestamp": "2021-07-06T22:57:39", "energy_consumed": "0.2"}
    part = codecarbon.load(emissions(tmp_path, later, NEW))
    assert part.reported[0].row["energy_consumed"] == "0.2"
    assert [note.code for note in part.notes] == ["codecarbon-runs"]
    assert part.notes[0].text == (
        "emissions.csv holds 2 CodeCarbon runs; the last is taken: r2 (ended 2021-07-06T22:57:39). "
        "Left out: r1 (ended 2021-07-06T21:57:39)."
    )


def test_rows_of_ranks_are_refused(tmp_path: Path) -> None:
    ranks = [NEW | {"run_id": f"rank-{rank}", "energy_consumed": str(0.1 + rank / 1000)} for rank in range(24)]
    with pytest.raises(RecordError, match=r"24 CodeCarbon runs overlap.*0\.1 to 0\.123 kWh, all: 2\.676") as caught:
        codecarbon.load(emissions(tmp_path, *ranks))
    assert "\n" not in str(caught.value)


def test_a_short_rank_inside_a_long_one_is_refused(tmp_path: Path) -> None:
    inside = NEW | {"run_id": "r2", "duration": "4.7", "timestamp": "2021-07-06T21:56:39"}
    with pytest.raises(RecordError, match="2 CodeCarbon runs overlap"):
        codecarbon.load(emissions(tmp_path, NEW, inside))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"duration": "soon"}, "line 2: duration is 'soon'"),
        ({"emissions": ""}, "line 2: emissions is ''"),
        ({"energy_consumed": "nan"}, "line 2: energy_consumed is 'nan'"),
        ({"emissions": "-1"}, "line 2: emissions is '-1'"),
        ({"timestamp": "yesterday"}, "is not a date and time, such as 2021"),
        ({"task_name": "load"}, "by task"),
    ],
)
def test_row_that_is_wrong_is_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        codecarbon.load(emissions(tmp_path, OLD | change))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column timestamp"),
        (b"a,b\n1,2\n", "no column timestamp"),
        (b"timestamp,duration,emissions,energy_consumed\n", "wrote no row"),
        (b"timestamp,duration,emissions,energy_consumed\n2021-07-06T21:57:39,4\n", "line 2: its cells do not fit"),
        (b"timestamp,duration,emissions,energy_consumed\n2021,4,5,6,7\n", "line 2: its cells do not fit"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"PK\x03\x04\x14\x00\x06\x00", "an Excel workbook or another archive, not text: save it as CSV"),
    ],
)
def test_file_that_is_not_codecarbons_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "emissions.csv"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=message):
        codecarbon.load(path)


def at(end: str, seconds: float, kwh: float, **more: str) -> dict[str, str]:
    return OLD | {"experiment_id": "", "timestamp": end, "duration": str(seconds), "energy_consumed": str(kwh)} | more


def test_rows_without_run_ids_are_told_apart_by_when_they_began(tmp_path: Path) -> None:
    rows = [
        at("2021-07-06T20:00:00", 600, 0.3),
        at("2021-07-06T21:00:00", 60, 0.1),
        at("2021-07-06T21:01:00", 120, 0.2),
    ]
    part = codecarbon.load(emissions(tmp_path, *rows))
    assert part.reported[0].row["energy_consumed"] == "0.2"
    assert "holds 2 CodeCarbon runs" in part.notes[0].text
    assert "Left out: line 2 (ended 2021-07-06T20:00:00)." in part.notes[0].text


@pytest.mark.parametrize(
    "old",
    [
        "",
        ",,,,,,,,,,,",
        "2021-07-05T10:00:00,a,codecarbon,soon,1,1,,,,,,",
        "never,a,codecarbon,1,1,1,,,,,,",
        "2021-07-05T10:00:00,a",
        "2021-07-05T10:00:00,x,codecarbon,600,1,1,,,,,,\n2021-07-05T10:00:10,y,codecarbon,600,1,1,,,,,,",
    ],
)
def test_an_old_row_that_is_wrong_does_not_block_the_last(tmp_path: Path, old: str) -> None:
    path = emissions(tmp_path, OLD)
    header, row = path.read_text().splitlines()
    path.write_text("\n".join([header, old, row, ""]))
    part = codecarbon.load(path)
    assert part.reported[0].row["energy_consumed"] == "0.1"
    assert part.phases[0].seconds == 100.0


def test_a_run_that_is_asked_for_is_taken_whatever_lies_beside_it(tmp_path: Path) -> None:
    beside = NEW | {"run_id": "r2", "energy_consumed": "0.4", "timestamp": "2021-07-06T21:57:20"}
    path = emissions(tmp_path, NEW, beside)
    path.write_text(path.read_text() + "cut,off\n")
    part = codecarbon.load(path, "r2")
    assert part.reported[0].row["energy_consumed"] == "0.4"
    assert [note.code for note in part.notes] == ["codecarbon-runs", "codecarbon-damaged"]
    with pytest.raises(RecordError, match=r"no run 'r3'; it holds r2 \(ended .*, r1 \(ended"):
        codecarbon.load(path, "r3")


GERMAN = "timestamp;duration;emissions;energy_consumed;run_id\n06.07.2021 21:57;100,5;0,03;0,1;r1\n"


@pytest.mark.parametrize(
    "content",
    [
        GERMAN.encode(),
        GERMAN.encode("utf-16"),
        GERMAN.encode("utf-8-sig"),
        GERMAN.replace("r1", "Läufe").encode("cp1252"),
        GERMAN.replace(";", "\t").encode(),
        GERMAN.replace("06.07.2021 21:57", "44383,9145833333").encode(),
        GERMAN.replace(";", ",")
        .replace("100,5", "100.5")
        .replace("0,", "0.")
        .replace("06.07.2021", "7/6/2021")
        .encode()
        .replace(b"7/6/2021 21:57", b"06-07-2021 21:57"),
        f"sep=;\r\n{GERMAN}".encode(),
        f"\r\n\r\n{GERMAN};;\r\n;;;;\r\n".encode(),
        GERMAN.encode("utf-16-le"),
        GERMAN.replace("06.07.2021", "06.07.21").encode(),
        GERMAN.replace("06.07.2021", "2021/7/6").encode(),
        GERMAN.replace("06.07.2021", "2021.07.06").encode(),
        b'timestamp,duration,emissions,energy_consumed\n2021-07-06T21:57:00,"100,5","0,03","0,1"\n',
    ],
)
def test_a_file_that_a_spreadsheet_saved_again_is_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "emissions.csv"
    path.write_bytes(content)
    part = codecarbon.load(path)
    assert part.phases[0].seconds == 100.5
    assert part.ended is not None
    assert abs(part.ended - datetime(2021, 7, 6, 21, 57, tzinfo=timezone.utc)).total_seconds() < 1
    assert float(part.reported[0].row["energy_consumed"]) == 0.1


@pytest.mark.parametrize(
    ("cell", "right"),
    [("1.234,5", 1234.5), ("1,234.5", 1234.5), ("1'234.5", 1234.5), ("1\u00a0234,5", 1234.5),
     ("1.234.567,5", 1234567.5), ("0,123", 0.123), ("1.234", 1.234)],
)  # fmt: skip
@pytest.mark.parametrize("delimiter", [",", ";"])
def test_thousands_apart_are_read(tmp_path: Path, cell: str, right: float, delimiter: str) -> None:
    path = tmp_path / "emissions.csv"
    row = delimiter.join(["2021-07-06T21:57:00", f'"{cell}"', "0.03", "0.1"])
    path.write_text("timestamp,duration,emissions,energy_consumed\n".replace(",", delimiter) + row + "\n")
    assert codecarbon.load(path).phases[0].seconds == right


@pytest.mark.parametrize(("cell", "right"), [("3.600", 3600.0), ("1.003.600", 1003600.0), ("0.123", 0.123)])
def test_a_point_among_decimal_commas_sets_thousands_apart(tmp_path: Path, cell: str, right: float) -> None:
    path = tmp_path / "emissions.csv"
    path.write_text(f"timestamp;duration;emissions;energy_consumed\n2021-07-06T21:57:00;{cell};0,03;0,1\n")
    assert codecarbon.load(path).phases[0].seconds == right


def text_of(*rows: dict[str, str]) -> str:
    return "".join(",".join(row) + "\n" + ",".join(row.values()) + "\n" for row in rows)


def test_a_header_within_the_file_is_that_of_the_rows_below_it(tmp_path: Path) -> None:
    path = tmp_path / "emissions.csv"
    later = NEW | {"run_id": "r2", "timestamp": "2022-07-06T21:57:39", "energy_consumed": "0.4", "wue": "0"}
    path.write_text(text_of(OLD, NEW | {"timestamp": "2022-01-06T21:57:39"}, later) + ",".join(OLD) + "\n")
    part = codecarbon.load(path)
    assert part.reported[0].row == later
    [note] = part.notes
    assert "holds 3 CodeCarbon runs" in note.text
    assert codecarbon.load(path, "r1").reported[0].row["energy_consumed"] == "0.1"


def test_a_quote_that_nobody_closes_costs_its_own_row(tmp_path: Path) -> None:
    path = emissions(tmp_path, NEW)
    header, row = path.read_text().splitlines()
    path.write_text("\n".join([header, row.replace("codecarbon", '"codecarbon'), row, ""]))
    part = codecarbon.load(path)
    assert part.reported[0].row == NEW
    assert [note.text for note in part.notes] == [
        "emissions.csv: rows that cannot be read were left out: line 2: not CSV: unexpected end of data"
    ]
    path.write_text("\n".join([header, row, row.replace("codecarbon", '"codecarbon'), ""]))
    with pytest.raises(RecordError, match="line 3: not CSV"):
        codecarbon.load(path)


def test_cells_that_fit_no_header_are_named_by_what_they_are(tmp_path: Path) -> None:
    path = emissions(tmp_path, NEW)
    content = path.read_text().rstrip()
    path.write_text(f"{content},,,\n")
    assert codecarbon.load(path).reported[0].row == NEW, "a spreadsheet's empty cells"
    path.write_text(f"{content},0.5\n")
    with pytest.raises(RecordError, match="line 2: its cells do not fit the header; did another version"):
        codecarbon.load(path)


def test_a_figure_that_means_two_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="line 2: duration is '1,234', not a number"):
        codecarbon.load(emissions(tmp_path, OLD | {"duration": "1,234"}))


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("7/26/21 9:57 PM", datetime(2021, 7, 26, 21, 57, tzinfo=timezone.utc)),
        ("44383.9150347222", datetime(2021, 7, 6, 21, 57, 39, tzinfo=timezone.utc)),
        ("7/26/2021 9:57 PM", datetime(2021, 7, 26, 21, 57, tzinfo=timezone.utc)),
        ("26/07/2021 21:57:39", datetime(2021, 7, 26, 21, 57, 39, tzinfo=timezone.utc)),
        ("7/7/2021 12:05 am", datetime(2021, 7, 7, 0, 5, tzinfo=timezone.utc)),
    ],
)
def test_dates_with_slashes_are_read_where_they_mean_one_day(tmp_path: Path, text: str, right: datetime) -> None:
    assert codecarbon.load(emissions(tmp_path, OLD | {"timestamp": text})).ended == right


def test_a_date_that_means_two_days_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"may be read in two ways; write it as 2021-06-07 or 2021-07-06"):
        codecarbon.load(emissions(tmp_path, OLD | {"timestamp": "7/6/2021 21:57"}))


def test_the_columns_of_codecarbon_3_3_are_kept(tmp_path: Path) -> None:
    new = {"gpu_utilization_percent": "61.5", "cpu_utilization_percent": "0.0", "ram_used_gb": "12.5", "wue": "0"}
    part = codecarbon.load(emissions(tmp_path, NEW | new))
    assert part.reported[0].row.items() >= new.items()
    usage = part.phases[0].usage
    assert usage["codecarbon-gpu"].utilization_ratio == 0.615
    assert usage["codecarbon-cpu"].utilization_ratio is None, "CodeCarbon writes 0 where it did not read it"


# Azure Monitor


def test_a_metric_more_or_one_without_points_costs_a_note(tmp_path: Path) -> None:
    good = metric("GpuEnergyJoules", [[{"total": 10.0}]])
    more = metric("DiskReads", [[{"total": 1.0}]])
    empty = metric("GpuUtilizationPercentage", [])
    nulls = metric("GpuMemoryUtilizationMegabytes", [[{"average": None, "maximum": None}]])
    wrong = metric("CpuUtilizationPercentage", [[{"maximum": 4.0}]])
    part = azure_monitor.load(export(tmp_path, good, more, empty, nulls, wrong))
    assert [(device.kind, device.usage.energy_joules) for device in part.devices] == [("gpu", 10.0)]
    texts = [note.text for note in part.notes]
    assert len(texts) == 4
    assert "'DiskReads' is not one that greenml reads" in texts[0]
    assert "GpuMemoryUtilizationMegabytes has no average in any point: nothing was sampled" in texts[1]
    assert "GpuUtilizationPercentage has no average in any point: nothing was sampled" in texts[2]
    assert "export it with --aggregation Average" in texts[3]


def test_what_azure_leaves_empty_costs_itself_alone(tmp_path: Path) -> None:
    """null for a list or a code, and a metric that is not read in any shape."""
    good = metric("GpuEnergyJoules", [[{"total": 10.0}]], errorCode=None)
    empty = metric("GpuUtilizationPercentage", [], timeseries=None)
    odd = metric("Other", [])
    odd["value"][0] = {"name": {"value": "Other"}, "unit": None}
    part = azure_monitor.load(export(tmp_path, good, empty, odd))
    assert [(device.kind, device.usage.energy_joules) for device in part.devices] == [("gpu", 10.0)]
    assert len(part.notes) == 2


def test_a_point_of_no_samples_is_none(tmp_path: Path) -> None:
    points = [{"average": 0.0, "total": 0.0, "count": 0}, {"average": 50.0, "total": 500.0, "count": 10}]
    content = metric("GpuUtilizationPercentage", [points], unit="percent")
    assert azure_monitor.load(export(tmp_path, content)).devices[0].usage.utilization_ratio == 0.5


@pytest.mark.parametrize(
    "content",
    [b"", b'"Timestamp","GPU Energy (Sum)"\n"2021-07-06T21:15:00Z","10"\n', b"Timestamp  Total\n---------  -----\n",
     b"WARNING: x\n{}", b'[{"Id": "x"}]', b'{"value": ['],
)  # fmt: skip
def test_what_is_no_answer_in_json_is_refused_with_how_to_get_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"metrics\.json: not (a )?JSON.*'az monitor metrics list --output json'"):
        azure_monitor.load([path])


def test_an_answer_that_is_an_error_is_told(tmp_path: Path) -> None:
    answer = {"error": {"code": "AuthorizationFailed", "message": "The client\nhas no access."}}
    with pytest.raises(RecordError, match=r"an error, AuthorizationFailed The client has no access\.: export"):
        azure_monitor.load(export(tmp_path, answer))


def test_a_mean_follows_from_total_and_count(tmp_path: Path) -> None:
    points = [{"total": 120.0, "count": 2}, {"total": 30.0, "count": 1}]
    part = azure_monitor.load(export(tmp_path, metric("GpuUtilizationPercentage", [points])))
    assert part.devices[0].usage.utilization_ratio == pytest.approx(0.5)


def test_energy_sums_over_points_and_series_and_skips_what_was_not_sampled(tmp_path: Path) -> None:
    content = metric("GpuEnergyJoules", [[{"total": 10.0}, {"total": None}, {"total": 5.0}], [{"total": 7.0}]])
    part = azure_monitor.load(export(tmp_path, content))
    assert part.devices[0].usage.energy_joules == 22.0
    assert part.devices[0].usage.utilization_ratio is None
    assert (part.started, part.ended) == (
        datetime(2021, 7, 6, 21, 15, tzinfo=timezone.utc),
        datetime(2021, 7, 6, 21, 18, tzinfo=timezone.utc),
    )


def test_a_null_utilization_is_left_out_of_the_mean(tmp_path: Path) -> None:
    content = metric("GpuUtilizationPercentage", [[{"average": 50.0}, {"average": None}, {"average": 70.0}]])
    usage = azure_monitor.load(export(tmp_path, content)).devices[0].usage
    assert usage.utilization_ratio == 0.6
    assert usage.energy_joules is None
    assert "GpuEnergyJoules" in usage.why


def test_utilization_is_weighted_by_count(tmp_path: Path) -> None:
    content = metric("CpuUtilizationPercentage", [[{"average": 10.0, "count": 3}, {"average": 50.0, "count": 1}]])
    assert azure_monitor.load(export(tmp_path, content)).devices[0].usage.utilization_ratio == 0.2


def test_peak_memory_is_the_mean_of_the_peaks(tmp_path: Path) -> None:
    series = [
        [{"average": 10.0, "maximum": 20.0}, {"average": 20.0, "maximum": 30.0}],
        [{"average": 10.0, "maximum": 12.0}, {"average": 20.0, "maximum": 10.0}],
    ]
    usage = azure_monitor.load(export(tmp_path, metric("GpuMemoryUtilizationMegabytes", series))).devices[0].usage
    assert usage.memory_max_bytes == 21e6
    assert usage.memory_mean_bytes == 15e6


def test_peak_that_was_not_exported_is_not_known(tmp_path: Path) -> None:
    content = metric("GpuMemoryUtilizationMegabytes", [[{"average": 10.0}]])
    assert azure_monitor.load(export(tmp_path, content)).devices[0].usage.memory_max_bytes is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "not a JSON object"),
        ({"value": []}, "not an export of 'az monitor metrics list'"),
        ({"value": [3]}, "not a JSON object"),
        ({"value": [{}]}, "without name, unit or timeseries"),
        (
            metric("GpuEnergyJoules", [[{"total": 1.0}]], errorCode="Throttled", errorMessage="try\nlater"),
            "answered Throttled: try later",
        ),
        (metric("DiskReads", [[{"total": 1.0}]]), "'DiskReads' is not one that greenml reads: GpuEnergyJoules"),
        (metric("GpuEnergyJoules", [[{"total": 1.0}]], unit="Percent"), "in unit 'Percent'"),
        (metric("GpuEnergyJoules", [[{"average": 1.0}]]), "--aggregation Total"),
        (metric("GpuEnergyJoules", [[{"total": None}]]), "no total in any point"),
        (metric("GpuEnergyJoules", [[{"total": "12"}]]), "is '12', not a number"),
        (metric("GpuEnergyJoules", [[{"total": -3.0}]]), "is -3.0, not a number from 0 up"),
        (metric("GpuEnergyJoules", [[{"total": 10**400}]]), "not a number from 0 up"),
        (metric("GpuUtilizationPercentage", [[{"average": 130.0}]]), "above 100 percent"),
        (metric("GpuEnergyJoules", [[{"total": 1.0}], [{"total": 1.0}]], dimension="RunId"), "2 runs"),
    ],
)
def test_export_that_is_wrong_is_refused_in_one_line(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(RecordError, match=message) as caught:
        azure_monitor.load(export(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_the_same_points_twice_are_refused(tmp_path: Path) -> None:
    content = metric("GpuEnergyJoules", [[{"total": 10.0}]])
    with pytest.raises(RecordError, match="there twice"):
        azure_monitor.load(export(tmp_path, content, content))


def test_a_run_over_midnight_in_two_files_adds_up(tmp_path: Path) -> None:
    first = metric("GpuEnergyJoules", [[{"total": 10.0}]])
    second = copy.deepcopy(first)
    second["value"][0]["timeseries"][0]["data"][0] = {"timeStamp": "2021-07-07T00:00:00Z", "total": 5.0}
    assert azure_monitor.load(export(tmp_path, first, second)).devices[0].usage.energy_joules == 15.0


def test_a_cell_that_no_csv_has_is_one_line(tmp_path: Path) -> None:
    """A field of more than 131,072 letters: in CodeCarbon's file, a published table, a course of intensity."""
    huge = "x" * 200_000
    (tmp_path / "a.csv").write_text(f"system,gpus\n{huge},8\n")
    with pytest.raises(RecordError, match=r"a\.csv: line 2: not CSV: field larger"):
        published_table.load(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text(f"time,grams\n{huge},8\n")
    with pytest.raises(FactorError, match=r"b\.csv, line 2: not CSV: field larger"):
        csv_intensity._read(tmp_path / "b.csv")
    with pytest.raises(RecordError, match="not CSV"):
        codecarbon.load(emissions(tmp_path, OLD | {"country_name": huge}))
    with pytest.raises(SettingsError, match="too long for a run"):
        importers.load(codecarbon=emissions(tmp_path, OLD), duration_seconds=1e11)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"duration": "1e12"}, "longer than a run takes"),
        ({"duration": "1e9", "timestamp": "0001-01-01T00:00:00"}, "longer than a run takes"),
    ],
)
def test_a_duration_that_no_run_has_is_one_line(tmp_path: Path, cells: dict[str, str], message: str) -> None:
    with pytest.raises(RecordError, match=message):
        codecarbon.load(emissions(tmp_path, OLD | cells))


def test_a_number_that_no_float_holds_costs_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "all_results.json").write_text(json.dumps({"train_runtime": 10**400, "eval_runtime": 5.0}))
    assert [phase.path for phase in trainer_output.load(tmp_path).phases] == ["eval"]


# The Trainer


def trainer(folder: Path, **files: object) -> Path:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_metrics_pass_through_and_secrets_do_not(tmp_path: Path) -> None:
    folder = trainer(
        tmp_path,
        all_results={"train_runtime": 203.5, "train_loss": float("nan"), "eval_rouge1": 54.7875},
        training_args={"learning_rate": 3e-05, "hub_token": "hf_abc", "deepspeed": {"zero_optimization": {"stage": 3}}},
    )
    run = importers.load(trainer_output=folder, duration_seconds=300)
    assert run.metrics == {"train_runtime": 203.5, "train_loss": "NaN", "eval_rouge1": 54.7875}
    assert run.params["hub_token"] == "***"
    assert "hf_abc" not in run.model_dump_json()
    assert run.trainer["ds_config"] == {"zero_optimization": {"stage": 3}}
    assert [(phase.path, phase.seconds) for phase in run.phases] == [("train", 203.5)]
    assert run.devices == []


def test_dates_of_the_files_are_said_to_be_a_guess(tmp_path: Path) -> None:
    folder = trainer(tmp_path, train_results={"train_runtime": 60.0})
    os.utime(folder / "train_results.json", (1_625_608_659, 1_625_608_659))
    run = importers.load(trainer_output=folder, duration_seconds=90)
    assert run.ended == datetime(2021, 7, 6, 21, 57, 39, tzinfo=timezone.utc)
    assert [note.code for note in run.notes] == ["dates"]


STATE = {
    "global_step": 30,
    "log_history": [
        {"epoch": 1.0, "loss": 1.9, "step": 10},
        {"epoch": 1.0, "eval_loss": 1.5, "eval_runtime": 4.0, "step": 10},
        {"epoch": 3.0, "step": 30, "train_loss": 1.2, "train_runtime": 2601.05},
    ],
}


@pytest.mark.parametrize("place", [".", "checkpoint-30"])
def test_a_state_alone_tells_run_times_and_metrics(tmp_path: Path, place: str) -> None:
    (tmp_path / "checkpoint-4").mkdir()
    (tmp_path / "checkpoint-4" / "trainer_state.json").write_text('{"log_history": [{"train_runtime": 1.0}]}')
    (tmp_path / place).mkdir(exist_ok=True)
    (tmp_path / place / "trainer_state.json").write_text(json.dumps(STATE))
    run = importers.load(trainer_output=tmp_path)
    assert [(phase.path, phase.seconds) for phase in run.phases] == [("train", 2601.05), ("train/eval", 4.0)]
    assert run.duration_seconds == 2601.05, "the evaluation was before the training's end: its time is in train"
    assert run.metrics["eval_loss"] == 1.5
    assert "epoch" not in run.metrics
    assert "trainer-log" in [note.code for note in run.notes]


def test_an_evaluation_after_training_adds_to_it_and_one_of_a_run_that_was_killed_tells_no_duration(
    tmp_path: Path,
) -> None:
    after = {"log_history": [*STATE["log_history"], {"eval_loss": 1.25, "eval_runtime": 6.5, "step": 30}]}  # type: ignore[misc]
    (tmp_path / "trainer_state.json").write_text(json.dumps(after))
    run = importers.load(trainer_output=tmp_path)
    assert [(phase.path, phase.seconds) for phase in run.phases] == [("train", 2601.05), ("eval", 6.5)]
    assert run.duration_seconds == 2607.55
    (tmp_path / "trainer_state.json").write_text(json.dumps(STATE))
    (tmp_path / "all_results.json").write_text('{"train_runtime": 2601.05, "eval_runtime": 5.5}')
    assert importers.load(trainer_output=tmp_path).duration_seconds == 2606.55, "a script's own evaluation, at its end"
    (tmp_path / "all_results.json").unlink()
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": STATE["log_history"][:2]}))  # type: ignore[index]
    with pytest.raises(SettingsError, match="do not tell how long the run was; add --duration"):
        importers.load(trainer_output=tmp_path)
    run = importers.load(trainer_output=tmp_path, duration_seconds=60)
    assert [(phase.path, phase.seconds) for phase in run.phases] == [("train/eval", 4.0)]


@pytest.mark.parametrize("newest", [None, "", '{"log_history": [{"train_runt'])
def test_a_newest_checkpoint_that_was_cut_off_leaves_the_one_before(tmp_path: Path, newest: str | None) -> None:
    for step, content in ((30, json.dumps(STATE)), (40, newest), (4, "{}")):
        (tmp_path / f"checkpoint-{step}").mkdir()
        if content is not None:
            (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(content)
    run = importers.load(trainer_output=tmp_path)
    assert run.metrics["eval_loss"] == 1.5
    assert [note.text.split(":")[0] for note in run.notes if note.code == "trainer-checkpoint"] == ["checkpoint-40"]


def test_a_folder_whose_own_state_is_not_whole_gives_that_of_its_newest_checkpoint(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        (tmp_path / f"checkpoint-{step}").mkdir()
        state = {"log_history": [{"eval_loss": step, "eval_runtime": 4.0}], "global_step": step}
        (tmp_path / f"checkpoint-{step}" / "trainer_state.json").write_text(json.dumps(state))
    (tmp_path / "trainer_state.json").write_text('{"log_history": [')
    run = importers.load(trainer_output=tmp_path)
    assert run.metrics["eval_loss"] == 100
    texts = [note.text for note in run.notes if note.code == "trainer-checkpoint"]
    assert texts == ["The folder's trainer_state.json is not whole; that of checkpoint-100 is taken."]
    (tmp_path / "trainer_state.json").write_text(json.dumps(STATE))
    run = importers.load(trainer_output=tmp_path)
    assert run.metrics["eval_loss"] == 1.5
    [text] = [note.text for note in run.notes if note.code == "trainer-checkpoint"]
    assert text.startswith("checkpoint-100 is of a later step than the folder's trainer_state.json, which is taken")


def test_half_characters_of_what_is_imported_are_written_as_question_marks(tmp_path: Path) -> None:
    state = b'{"log_history": [{"train_runtime": 5.0, "note": "a\\udfffb"}]}'
    (tmp_path / "trainer_state.json").write_bytes(state)
    words = ["import", "--trainer-output", str(tmp_path), "--output", str(tmp_path / "run.json"), "--name", "n\udcff"]
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0
    record = record_file.read(tmp_path / "run.json")
    assert (record.name, record.metrics["note"]) == ("n?", "a?b")


def test_pickles_are_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return (Path.touch, (tmp_path / "loaded",))

    (tmp_path / "training_args.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(RecordError, match="none of the Trainer's files is here"):
        trainer_output.load(tmp_path)
    trainer(tmp_path, all_results={})
    trainer_output.load(tmp_path)
    assert not (tmp_path / "loaded").exists()


def test_folder_or_file_that_is_wrong_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="not a folder"):
        trainer_output.load(tmp_path / "nowhere")
    (tmp_path / "trainer_state.json").write_text("{")
    with pytest.raises(RecordError, match=r"trainer_state\.json: not JSON"):
        trainer_output.load(tmp_path)


# Together


def test_gpus_of_two_tools_are_the_same_gpus(tmp_path: Path) -> None:
    paths = export(tmp_path, metric("GpuEnergyJoules", [[{"total": 600_000.0}]]))
    run = importers.load(codecarbon=emissions(tmp_path, NEW), azure_monitor=paths, duration_seconds=300)
    gpus = [device for device in run.devices if device.kind == "gpu"]
    assert [(device.id, device.usage.energy_joules) for device in gpus] == [("azure-monitor-gpu", 600_000.0)]
    assert gpus[0].note == "energy of the training phase is CodeCarbon's"
    assert run.phases[0].usage["azure-monitor-gpu"].energy_joules == pytest.approx(252_000)
    assert set(run.phases[0].usage) <= {device.id for device in run.devices}


def test_codecarbon_fills_in_an_energy_that_azure_does_not_have(tmp_path: Path) -> None:
    paths = export(tmp_path, metric("GpuUtilizationPercentage", [[{"average": 50.0}]]))
    run = importers.load(codecarbon=emissions(tmp_path, NEW), azure_monitor=paths, duration_seconds=100)
    usage = next(device.usage for device in run.devices if device.kind == "gpu")
    assert usage.energy_joules == pytest.approx(252_000)
    assert (usage.utilization_ratio, usage.why) == (0.5, "")
    longer = importers.load(codecarbon=emissions(tmp_path, NEW), azure_monitor=paths, duration_seconds=300)
    assert longer.devices[0].usage.energy_joules is None


def test_a_duration_that_nobody_gave_is_a_lower_bound_and_said(tmp_path: Path) -> None:
    run = importers.load(codecarbon=emissions(tmp_path, NEW), trainer_output=GOLDEN)
    assert run.duration_seconds == pytest.approx(100 + 163.8357 + 168.8245)
    assert any(note.code == "duration" and "not given" in note.text for note in run.notes)


def test_a_duration_that_nothing_tells_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="--duration"):
        importers.load(azure_monitor=export(tmp_path, metric("GpuEnergyJoules", [[{"total": 10.0}]])))
    with pytest.raises(SettingsError, match="nothing to import"):
        importers.load()
    with pytest.raises(SettingsError, match="not above zero"):
        importers.load(codecarbon=emissions(tmp_path, NEW), duration_seconds=0)


# Figures that cannot all be right


def quantity(value: float | None) -> Quantity:
    return Quantity(value=value, basis="reported", why="" if value is not None else "not in the sources")


def with_costs(run: RunRecord, **usd: float) -> RunRecord:
    unknown = quantity(None)
    total = Totals(
        scope="run", seconds=run.duration_seconds, gpu_energy_joules=unknown, cpu_energy_joules=unknown,
        dram_energy_joules=unknown, it_energy_joules=unknown, facility_energy_joules=unknown, emissions_grams=unknown,
        cost_usd={tier: quantity(value) for tier, value in usd.items()},
    )  # fmt: skip
    return run.model_copy(update={"totals": [total]})


def run_of(
    folder: Path,
    row: dict[str, str],
    *,
    run_kwh: float | None = None,
    runtime: float | None = None,
    duration: float = 600,
) -> RunRecord:
    paths = [] if run_kwh is None else export(folder, metric("GpuEnergyJoules", [[{"total": run_kwh * 3.6e6}]]))
    output = None if runtime is None else trainer(folder, all_results={"train_runtime": runtime})
    return importers.load(
        codecarbon=emissions(folder, row), azure_monitor=paths, trainer_output=output, duration_seconds=duration
    )


def texts(run: RunRecord) -> str:
    notes = importers.conflicts(run)
    assert {note.code for note in notes} <= {"conflict"}
    return "\n".join(note.text for note in notes)


def test_a_row_of_one_rank_of_24_is_found_out_twice(tmp_path: Path) -> None:
    rank = OLD | {"duration": "4.7", "energy_consumed": str(1.57 / 157), "emissions": "0.003"}
    found = texts(run_of(tmp_path, rank, run_kwh=1.57, runtime=203.0))
    assert "covers 4.7 s, but the Trainer trained for 203 s" in found
    assert "157 times below the 1.57 kWh of the run's GPUs" in found


def test_a_row_within_five_percent_of_the_trainer_is_fine(tmp_path: Path) -> None:
    assert texts(run_of(tmp_path, OLD, runtime=104.0)) == ""
    assert "but the Trainer trained for 106 s" in texts(run_of(tmp_path, OLD, runtime=106.0))


def test_training_above_the_whole_run_is_found_out(tmp_path: Path) -> None:
    assert "0.1 kWh, above the 0.05 kWh of the whole run's GPUs" in texts(run_of(tmp_path, OLD, run_kwh=0.05))
    assert "0.07 kWh for the GPUs, the whole run only 0.05 kWh" in texts(run_of(tmp_path, NEW, run_kwh=0.05))
    assert texts(run_of(tmp_path, NEW, run_kwh=0.08)) == ""


def test_codecarbons_pue_is_no_conflict(tmp_path: Path) -> None:
    row = NEW | {"pue": "1.5", "gpu_energy": "0.105", "energy_consumed": "0.15"}
    assert texts(run_of(tmp_path, row, run_kwh=0.08)) == ""


def test_swapped_price_labels_are_found_out(tmp_path: Path) -> None:
    run = run_of(tmp_path, OLD)
    assert texts(with_costs(run, low_priority=3.22, dedicated=16.1)) == ""
    assert "low priority tier ($16.1) is dearer than the dedicated one ($3.22)" in texts(
        with_costs(run, low_priority=16.1, dedicated=3.22)
    )


def test_grams_in_the_place_of_kilograms_are_found_out(tmp_path: Path) -> None:
    assert "300 kg CO2e per kWh" in texts(run_of(tmp_path, OLD | {"emissions": "30.0"}))


def test_phases_longer_than_the_run_are_found_out(tmp_path: Path) -> None:
    assert "train took 100 s, longer than the whole run's 50 s" in texts(run_of(tmp_path, OLD, duration=50))
    folder = trainer(tmp_path, all_results={"train_runtime": 60.0, "eval_runtime": 50.0})
    run = importers.load(trainer_output=folder, duration_seconds=100)
    assert "train, eval took 110 s together" in texts(run)


def test_another_region_is_found_out(tmp_path: Path) -> None:
    run = run_of(tmp_path, OLD)
    assert texts(run) == ""
    moved = run.model_copy(update={"place": PlaceRecord(cloud="azure", region="swedencentral", country_iso3="SWE")})
    assert "cloud_region westus2, but the run is said to be in swedencentral" in texts(moved)
    assert "country_iso_code USA" in texts(moved)
    spelled = run.model_copy(update={"place": PlaceRecord(cloud="azure", region="West US 2")})
    assert texts(spelled) == ""


def test_another_day_is_found_out(tmp_path: Path) -> None:
    found = texts(run_of(tmp_path, OLD | {"timestamp": "2021-07-09T21:57:39"}, run_kwh=0.12))
    assert "is of 2021-07-09, but the run went from 2021-07-06" in found


def test_a_run_that_was_published_by_its_time_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Time and money follow, and results stand beside them; energy is not known, and is not 0."""
    output = tmp_path / "run.json"
    words = ["import", "--duration", "9m27s", "--started", "2021-07-01", "--metric", "rouge1=55.162"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--sku", "ND40rs_v2", "--region", "westus2", "--output", str(output)])
    assert ended.value.code == 0
    record = record_file.read(output)
    assert (record.duration_seconds, record.metrics, record.devices) == (567.0, {"rouge1": 55.162}, [])
    assert record.started.isoformat() == "2021-07-01T00:00:00+00:00"
    assert record.total().cost_usd["dedicated"].value == pytest.approx(567 / 3600 * 22.03)
    assert record.total().it_energy_joules.value is None
    assert "no energy" in record.notes[0].text
    capsys.readouterr()
    for wrong, message in (
        (["--started", "July"], "write 2021-07-06"),
        (["--metric", "rouge1"], "write NAME=VALUE"),
        (["--metric", "rouge1=high"], "write NAME=VALUE"),
        (["--duration", "9m27s"], "--duration and --started"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["import", "--duration", "1m", *wrong, "--output", str(tmp_path / "other.json")])
        assert ended.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--from", "wall_meter"], "write NAME:FILE"),
        (["--from", "os.path:x"], "write NAME:FILE"),
        (["--from", "nothing_here:x"], "there is no importer nothing_here"),
        (["--from", "codecarbon:x"], "it has an option of its own"),
        (["--from", "x:x", "--codecarbon", "x"], "goes with --duration and --name alone"),
    ],
)
def test_an_importer_by_its_name(words, answer, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["import", "--output", str(tmp_path / "run.json"), *words])
    assert answer in capsys.readouterr().err
