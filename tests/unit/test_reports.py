"""Reports: what is known is right, what is not known is said in words, and what adds up adds up."""

import csv
import io
import re
from datetime import datetime, timedelta, timezone

import pytest

from greenml import reports
from greenml.accounting import assumptions
from greenml.analysis import explanation
from greenml.errors import SettingsError
from greenml.record.schema import (
    AttemptRecord,
    DeviceRecord,
    Factor,
    Factors,
    Note,
    PhaseRecord,
    PlaceRecord,
    Quantity,
    ReportedEmissions,
    RunRecord,
    SourceRef,
    Totals,
    UncertaintyBudget,
    Usage,
)
from greenml.reports import markdown, terminal
from greenml.settings import resolve

START = datetime(2026, 3, 1, 10, 0, 0, tzinfo=timezone.utc)
RAPL_WHY = "no permission to read RAPL"


def known(value: float, basis: str = "measured", spread: float = 0.05) -> Quantity:
    return Quantity.model_validate(
        {"value": value, "low": value * (1 - spread), "high": value * (1 + spread), "basis": basis}
    )


def unknown(why: str, basis: str = "measured") -> Quantity:
    return Quantity.model_validate({"value": None, "basis": basis, "why": why})


def totals(
    scope: str, seconds: float, joules: float | None, *, cpu: float | None = None, usd: dict[str, float] | None = None
) -> Totals:
    gpu = known(joules) if joules is not None else unknown("no GPU was read")
    it_energy = (
        known((joules or 0) + (cpu or 0)) if joules is not None or cpu is not None else unknown("nothing was read")
    )
    value = it_energy.value
    return Totals(
        scope=scope,
        seconds=seconds,
        gpu_energy_joules=gpu,
        cpu_energy_joules=known(cpu, "modelled", 0.3) if cpu is not None else unknown(RAPL_WHY),
        dram_energy_joules=unknown(RAPL_WHY),
        it_energy_joules=it_energy,
        facility_energy_joules=known(value * 1.1, "assumed") if value is not None else unknown("no energy"),
        emissions_grams=known(value * 1.1 / 3.6e6 * 300, "assumed") if value is not None else unknown("no energy"),
        cost_usd={tier: Quantity(value=value, basis="assumed") for tier, value in (usd or {}).items()},
        gpu_utilization_ratio=0.8 if joules is not None else None,
        cpu_utilization_ratio=0.25,
        gpu_memory_mean_bytes=10e9 if joules is not None else None,
        gpu_memory_peak_bytes=12e9 if joules is not None else None,
    )


def gpu(index: int = 0, host: str = "node-0", joules: float | None = 3.6e5) -> DeviceRecord:
    usage = Usage(energy_joules=joules, power_mean_watts=300.0 + index, utilization_ratio=0.8, memory_max_bytes=12e9)
    return DeviceRecord(
        id=f"{host}/GPU-{index}", kind="gpu", name="NVIDIA H100 80GB HBM3", host=host, method="counter", sensor="nvml",
        detail={"index": str(index)}, usage=usage,
    )  # fmt: skip


def cpu_device(host: str = "node-0") -> DeviceRecord:
    return DeviceRecord(
        id=f"{host}/package-0", kind="cpu", name="AMD EPYC 9654", host=host, method="estimate", sensor="estimate",
        usage=Usage(energy_joules=3.6e4, utilization_ratio=0.25),
    )  # fmt: skip


def factor(value: float, unit: str, **more: object) -> Factor:
    fields: dict[str, object] = {
        "value": value, "low": value, "high": value, "unit": unit, "scope": "given",
        "source": SourceRef(name="the table", published="2025-01-01"),
    }  # fmt: skip
    return Factor.model_validate(fields | more)


def measured(**update: object) -> RunRecord:
    run = RunRecord(
        greenml_version="0.1.0",
        run_id="r1",
        name="toy",
        status="completed",
        started=START,
        ended=START + timedelta(seconds=1200),
        duration_seconds=1200.0,
        place=PlaceRecord(
            cloud="aws", region="us-east-1", display_name="US East (N. Virginia)", country_name="United States",
            state="Virginia", sku="p5.48xlarge", sku_label="8 X H100 80GB",
        ),
        devices=[gpu(), cpu_device()],
        phases=[
            PhaseRecord(path="train", count=1, seconds=900.0, spans=[(100.0, 1000.0)], usage={}),
            PhaseRecord(path="train/eval", count=3, seconds=90.0, spans=[(300.0, 330.0)], usage={}),
            PhaseRecord(path="setup", count=1, seconds=90.0, spans=[(5.0, 95.0)], usage={}),
        ],
        factors=Factors(
            carbon_intensity=factor(300.0, "g CO2e/kWh", low=250.0, high=350.0, year=2024, basis="lifecycle"),
            pue=factor(1.1, "1"),
            prices={
                "spot": factor(20.0, "USD/h", derived=True, note="40 % of the list price"),
                "dedicated": factor(50.0, "USD/h"),
            },
        ),
        totals=[
            totals("run", 1200.0, 360_000.0, cpu=36_000.0, usd={"spot": 6.67, "dedicated": 16.67}),
            totals("train", 900.0, 300_000.0, cpu=30_000.0),
            totals("train/eval", 90.0, 20_000.0, cpu=2_000.0),
            totals("setup", 90.0, 10_000.0, cpu=2_000.0),
        ],
    )  # fmt: skip
    return run.model_copy(update=update)


def row(text: str, key: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {key}"))


# Markdown


def test_measured_carbon_table_has_codecarbons_keys_in_order() -> None:
    carbon = markdown.render(measured()).split("## Carbon Emissions")[1]
    keys = [line.split(" | ")[0][2:] for line in carbon.splitlines() if line.startswith("| ")][2:]
    assert keys == [
        "timestamp", "duration", "emissions", "energy_consumed", "pue", "country_name", "region",
        "cloud_provider", "cloud_region",
    ]  # fmt: skip
    assert row(carbon, "timestamp") == "| timestamp | 2026-03-01T10:16:40 |"
    assert row(carbon, "duration") == "| duration | 900 |"
    assert row(carbon, "energy_consumed") == "| energy_consumed | 0.0916667 |"
    assert row(carbon, "emissions") == "| emissions | 0.03025 |"
    assert "Covers the training phase only: 900.00 s." in carbon
    assert "GPU measured (NVML counter), CPU modelled, DRAM not measured (no permission to read RAPL)" in carbon
    assert (
        "Carbon intensity: 300 g CO2e/kWh (250 to 350 g CO2e/kWh); given, 2024, lifecycle; source: the table" in carbon
    )
    assert "Interval of emissions: 0.0287375 to 0.0317625 kg CO2e." in carbon


def test_without_a_training_phase_carbon_is_of_the_whole_run() -> None:
    run = measured()
    carbon = markdown.render(run.model_copy(update={"phases": [], "totals": run.totals[:1]})).split("## Carbon")[1]
    assert "Covers the whole run: 1200.00 s." in carbon
    assert row(carbon, "timestamp") == "| timestamp | 2026-03-01T10:20:00 |"


def test_training_of_unknown_energy_gives_way_to_the_run() -> None:
    run = measured()
    carbon = markdown.render(run.model_copy(update={"totals": [run.totals[0], totals("train", 900.0, None)]}))
    assert "Covers the whole run: 1200.00 s." in carbon


def test_tiny_emissions_are_in_fixed_notation() -> None:
    run = measured(phases=[], totals=[totals("run", 3.0, 40.0)])
    assert row(markdown.render(run), "emissions") == "| emissions | 0.00000366667 |"
    reported = ReportedEmissions(
        tool="codecarbon", scope="train", file="e.csv", row={"emissions": "1.2e-05", "duration": "3.25"}
    )
    assert row(markdown.render(measured(reported=[reported])), "emissions") == "| emissions | 0.000012 |"


@pytest.mark.parametrize(
    ("cloud", "usd", "expected"),
    [
        ("aws", {"dedicated": 16.67, "spot": 6.67}, "| Compute Cost (Spot/OnDemand) | $6.67/$16.67 (USD) |"),
        ("gcp", {"dedicated": 16.67}, "| Compute Cost (Spot/OnDemand) | not known/$16.67 (USD) |"),
        ("azure", {"low_priority": 3.2}, "| Compute Cost (LowPriority/Dedicated) | $3.20/not known (USD) |"),
        ("azure", {"spot": 3.2, "dedicated": 9.0}, "| Compute Cost (Spot/Dedicated) | $3.20/$9.00 (USD) |"),
        ("azure", {}, "| Compute Cost (LowPriority/Dedicated) | not known (no price for p5.48xlarge) |"),
        ("", {"dedicated": 2.0}, "| Compute Cost (Dedicated) | $2.00 (USD) |"),
    ],
)
def test_cost(cloud: str, usd: dict[str, float], expected: str) -> None:
    place = measured().place.model_copy(update={"cloud": cloud})
    run = measured(place=place, totals=[totals("run", 1200.0, 360_000.0, usd=usd)])
    assert row(markdown.render(run), "Compute Cost") == expected


def test_a_workstation_shows_its_hardware_and_knows_no_cost() -> None:
    run = measured(
        place=PlaceRecord(), factors=Factors(), totals=[totals("run", 1200.0, 360_000.0)], devices=[gpu(0), gpu(1)]
    )
    card = markdown.render(run)
    assert row(card, "Hardware") == "| Hardware | 2 X NVIDIA H100 80GB HBM3 |"
    assert row(card, "Region") == "| Region | not known |"
    assert row(card, "Compute Cost") == "| Compute Cost | not known (no SKU and no price given) |"
    assert "cloud_provider" not in card
    assert "Carbon intensity: not known." in card


def test_a_machine_without_gpu_says_so_once() -> None:
    run = measured(devices=[cpu_device()], totals=[totals("run", 1200.0, None, cpu=36_000.0)])
    resource = markdown.render(run).split("## Carbon")[0]
    assert row(resource, "GPU") == "| GPU | none found |"
    assert row(resource, "Total CPU") == "| Total CPU Energy Usage | 36.00 (kJ) |"
    assert resource.count("GPU") == 1
    assert "CPU energy: modelled, 25.20 to 46.80 kJ." in resource


def test_gpus_that_could_not_be_read_are_not_zero() -> None:
    run = measured(devices=[gpu(joules=None)], totals=[totals("run", 1200.0, None)])
    resource = markdown.render(run).split("## Carbon")[0]
    assert row(resource, "Total GPU") == "| Total GPU Energy Usage | not measured (no GPU was read) |"
    assert row(resource, "Average GPU") == "| Average GPU Utilization | not measured |"
    assert row(resource, "GPU Memory") == "| GPU Memory Usage (Avg/Peak) | not measured |"


def test_a_record_without_totals_prints_no_figure() -> None:
    run = measured(totals=[], factors=Factors())
    for text in (markdown.render(run), terminal.render(run)):
        assert "not known" in text
        assert "$0" not in text
        assert " 0 J" not in text


def test_cells_and_notes_are_escaped() -> None:
    place = PlaceRecord(cloud="azure", sku="a|b", sku_label="x\ny\\|z", display_name="<b>")
    card = markdown.render(measured(place=place, notes=[Note(code="x", text="first | second\n\n# heading <script>")]))
    assert row(card, "AzureML SKU") == "| AzureML SKU | a\\|b (x y\\\\\\|z) |"
    assert row(card, "Region") == "| Region | &lt;b> |"
    assert card.endswith("Notes on the figures:\n\n- first \\| second # heading &lt;script>\n")


def test_attempts_nodes_and_status_are_said() -> None:
    attempts = [AttemptRecord(number=n, started=START, ended=None, seconds=600.0, status="killed") for n in (1, 2)]
    place = measured().place.model_copy(update={"nodes": 4})
    card = markdown.render(measured(attempts=attempts, place=place, status="killed"))
    assert "The run took 2 attempts; every figure is their sum." in card
    assert "killed; figures up to its last reading" in card
    assert "| AWS instance type | p5.48xlarge (8 X H100 80GB), 4 nodes |" in card
    assert "x 0.3333 h x 4 nodes: spot $20.00 (given, derived, the table, 2025-01-01, 40 % of the list price)" in card


# Terminal


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_terminal_keeps_to_its_width(width: int) -> None:
    run = measured(notes=[Note(code="x", text="a long note " * 20)], devices=[gpu(i, f"node-{i}") for i in range(9)])
    assert max(len(line) for line in terminal.render(run, width=width).splitlines()) <= width


def test_terminal_is_plain_unless_colour_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "20")
    assert terminal.render(measured()).isascii()
    assert "\x1b[" not in terminal.render(measured())
    assert "\x1b[" in terminal.render(measured(), color=True)


def test_text_is_never_taken_for_markup() -> None:
    assert "[bold]x[/bold] :smile:" in terminal.render(measured(name="[bold]x[/bold] :smile:"))


def test_top_level_phases_and_the_remainder_make_the_run() -> None:
    lines = terminal.render(measured(), width=120).split("Phases\n")[1].splitlines()
    by_name = {re.split(r"\s{2,}", line.strip())[0]: line for line in lines if line}
    assert list(by_name)[2:7] == ["setup", "train", "eval", "outside phases", "run"]
    assert "3m 30s" in by_name["outside phases"]
    assert "15.00 Wh" in by_name["outside phases"]  # 396 - 330 - 12 = 54 kJ
    assert by_name["eval"].startswith("   eval")


def test_phases_that_overlap_have_no_remainder() -> None:
    phases = [PhaseRecord(path=name, count=1, seconds=1000.0, spans=[], usage={}) for name in ("a", "b")]
    text = terminal.render(measured(phases=phases))
    assert "(phases overlap in time)" in text
    assert "outside phases" not in text


def test_running_and_killed_runs_say_so() -> None:
    assert "still running; figures so far" in terminal.render(measured(status="running", ended=None))
    assert "to now" in terminal.render(measured(status="running", ended=None))
    assert "killed; figures up to its last reading" in terminal.render(measured(status="killed"))


def test_many_devices_are_grouped() -> None:
    one_node = terminal.render(measured(devices=[gpu(i) for i in range(17)]), width=120)
    assert "17 X gpu NVIDIA H100" in one_node
    assert "300.0 to 316.0 W" in one_node
    many = terminal.render(measured(devices=[gpu(i % 8, f"node-{i // 8}") for i in range(512)]), width=120)
    assert "512 X gpu NVIDIA H100 80GB HBM3 on 64 hosts" in many
    assert len(many.splitlines()) < 70


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize("lines", [22, 28, 38, 48])  # terminals of 24, 30, 40 and 50 lines
def test_a_summary_fits_the_screen(width: int, lines: int) -> None:
    inner = [PhaseRecord(path=f"train/{name}", count=9, seconds=1.0, spans=[], usage={}) for name in "abcdefgh"]
    run = measured(
        devices=[gpu(i) for i in range(8)] + [cpu_device()],
        notes=[Note(code=f"n{i}", text=f"note {i} " + "of a hundred words " * 20) for i in range(40)],
    )
    run = run.model_copy(update={"phases": [*run.phases, *inner]})
    text = terminal.render(run, width=width, full=False, height=lines)
    assert len(text.splitlines()) <= lines
    for what in ("IT energy", "Emissions", "Cost", "Carbon intensity:", "PUE:", "Price", "note 0", "--full"):
        assert what in text
    assert ("8 X gpu NVIDIA H100" in text) == (lines > 28)
    assert ("h" in [line.split()[0] for line in text.splitlines() if line]) == (lines > 38)  # the last inner phase
    assert len(terminal.render(run, width=width, full=False).splitlines()) > 38  # no screen: nothing is left out for it


@pytest.mark.parametrize(
    ("width", "lines"),  # terminals of 15 and 24 lines
    [(40, 22), (60, 13), (60, 22), (80, 13), (80, 22), (200, 13), (200, 22)],
)
@pytest.mark.parametrize("count", [1, 64])
def test_a_summary_of_long_names_fits_a_small_screen(width: int, lines: int, count: int) -> None:
    run = measured(
        name="a-long-name-" * 30, error="ValueError: " + "x" * 400, status="failed",
        devices=[gpu(i).model_copy(update={"name": "A Long Accelerator " * 12}) for i in range(count)],
        notes=[Note(code=f"n{i}", text=f"note {i} " + "words " * 60) for i in range(12)],
    )  # fmt: skip
    text = terminal.render(run, width=width, full=False, height=lines)
    shown = text.splitlines()
    assert len(shown) <= lines
    assert max(map(len, shown)) <= width
    assert "failed" in shown[0]
    for what in ("IT energy", "Emissions", "Cost", "Carbon intensity:", "PUE:", "Price", "note", "--full"):
        assert what in text
    total = run.total()
    assert total is not None
    assert terminal._format.energy(total.it_energy_joules.value or 0.0) in text, "no figure is cut"


def test_a_group_with_a_silent_device_says_so() -> None:
    devices = [gpu(i) for i in range(19)] + [gpu(19, joules=None)]
    assert "(1 not measured)" in terminal.render(measured(devices=devices), width=140)


# CSV and the folder


def test_csv_has_a_row_a_device_and_totals_in_si() -> None:
    rows = list(csv.DictReader(io.StringIO(reports.render(measured(), "csv"))))
    assert [(row["scope"], row["row"], row["kind"]) for row in rows[:7]] == [
        ("run", "device", "gpu"), ("run", "device", "cpu"), ("run", "total", "gpu"), ("run", "total", "cpu"),
        ("run", "total", "dram"), ("run", "total", "it"), ("run", "total", "facility"),
    ]  # fmt: skip
    assert float(rows[0]["energy_joules"]) == 360_000.0
    assert (rows[4]["energy_joules"], rows[4]["why"]) == ("", RAPL_WHY)
    assert float(rows[6]["emissions_grams"]) == pytest.approx(36.3)
    assert float(rows[6]["cost_dedicated_usd"]) == 16.67
    assert {row["scope"] for row in rows} == {"run", "setup", "train", "train/eval"}


def test_the_folder_is_the_registry() -> None:
    assert {"csv", "markdown", "terminal"} <= set(reports.formats())
    assert all(not name.startswith("_") for name in reports.formats())
    assert reports.render(measured(), "terminal") == terminal.render(measured())
    with pytest.raises(SettingsError, match="did you mean 'markdown'"):
        reports.render(measured(), "markdwn")
    with pytest.raises(SettingsError, match="there are csv"):
        reports.render(measured(), "_format")


@pytest.mark.parametrize("name", ["terminal", "latex", "html"])
def test_every_report_says_that_a_figure_is_a_lower_bound(name):
    """They print from one list: a total that lacks a device looks whole in none of them."""
    total = totals("run", 1200.0, 3.6e5, cpu=3.6e4)
    partial = Quantity(value=3.96e5, low=3.8e5, high=None, basis="measured", why="GPU 1 is lost", at_least=True)
    record = measured(totals=[total.model_copy(update={"it_energy_joules": partial})])
    text = " ".join(reports.render(record, name).replace("~", " ").split())
    assert re.search(r"IT energy\W.{0,40}?at least 0.1100 kWh.{0,40}?0.1056 kWh or more", text)
    assert "partial" in text or "GPU 1 is lost" in text


def test_a_gpu_that_was_not_measured_is_seen_in_phases_csv_and_explanation():
    """Real accounting: one GPU of two tells nothing, and nothing is known that limits its energy."""
    known, silent = gpu(0), gpu(1, joules=None)
    silent.usage.uncertainty = UncertaintyBudget(coverage_joules=None)
    usage = {device.id: device.usage for device in (known, silent)}
    phase = PhaseRecord(path="train", count=1, seconds=1000.0, spans=[(0.0, 1000.0)], usage=usage)
    made = measured(devices=[known, silent], phases=[phase], totals=[])
    made = assumptions.account(made, resolve({"sku": "ND40rs_v2", "region": "westus2"}))
    for total in made.totals:
        for quantity in (total.gpu_energy_joules, total.it_energy_joules, total.emissions_grams):
            assert (quantity.at_least, quantity.high) == (True, None), total.scope
    text = terminal.render(made, width=160)
    [row] = [line for line in text.splitlines() if line.strip().startswith("train ")]
    assert row.count("at least") == 2  # energy and emissions
    rows = list(csv.DictReader(io.StringIO(reports.render(made, "csv"))))
    whys = {row["why"] for row in rows if row["row"] == "total" and row["kind"] in ("gpu", "it", "facility")}
    assert all(why.startswith("at least: 1 of 2 GPUs measured") for why in whys)
    steps = {step.name: step for step in explanation.explain(made)}
    assert all(
        steps[name].printed.startswith("at least ") for name in ("gpu_energy", "energy", "facility", "emissions")
    )
