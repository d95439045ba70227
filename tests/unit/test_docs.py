"""Documentation: what it shows exists, compiles and works, and what is generated is up to date."""

import json
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType

import click
import pytest

from greenml import cli
from greenml.errors import FactorError, RecordError, SensorError, SettingsError
from greenml.factors import PRICE_PROVIDERS, prices, skus
from greenml.factors.types import Place
from greenml.record import importers
from greenml.record.schema import DeviceRecord, Factors, PlaceRecord, RunRecord, Usage
from greenml.trace.types import Wanted

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for part in ("docs", "examples", "src", "tests") for path in ROOT.glob(f"{part}/**/*.md")),
    ]
)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
START = datetime(2026, 6, 1, 10, 0, tzinfo=timezone.utc)


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def contributed(name: str) -> ModuleType:
    """Return a file that CONTRIBUTING.md shows, as a module."""
    (source,) = (
        block for block in blocks(ROOT / "CONTRIBUTING.md", "python") if block.startswith(f"# src/greenml/{name}\n")
    )
    module = ModuleType(Path(name).stem)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    exec(compile(source, name, "exec"), module.__dict__)
    return module


def test_generated_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "build_docs.py", "--check"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_compile(page: Path) -> None:
    for source in blocks(page, "python"):
        if not source.startswith(("greenml.", "Run.", "RunRecord.")):  # signatures, in the reference
            compile(source, str(page), "exec")


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_resolve(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", text):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_have_the_options_that_are_shown(page: Path) -> None:
    context = click.Context(cli.group, info_name="greenml")
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] != ["greenml"]:
                continue
            command: click.Command | None = cli.group
            for word in words[1:]:  # a command of commands has the options of the one that is named
                if isinstance(command, click.Group):
                    command = command.get_command(context, word)
            assert command is not None, line
            if isinstance(command, click.Group) and len(words) > 2 and words[2] in command.list_commands(context):
                command = command.get_command(context, words[2])
                assert command is not None
            own = words[: words.index("--")] if "--" in words else words
            known = {name for param in command.params for name in param.opts}
            assert {word for word in own if word.startswith("--")} <= known, line


def test_docstrings_name_sections_of_the_method_that_exist() -> None:
    numbers = {
        int(number) for number in re.findall(r"^## (\d+) ", (ROOT / "docs/method.md").read_text("utf-8"), re.MULTILINE)
    }
    named = {
        int(number)
        for path in (ROOT / "src").rglob("*.py")
        for sections in re.findall(r"method\.md, sections? ([\d, and]+)", path.read_text(encoding="utf-8"))
        for number in re.findall(r"\d+", sections)
    }
    assert named
    assert named <= numbers


def test_design_lists_every_module() -> None:
    text = (ROOT / "docs/design.md").read_text(encoding="utf-8")
    package = ROOT / "src" / "greenml"
    files = {path.stem for path in package.glob("*.py")}
    folders = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").exists()} - {"data/"}
    assert {name for name in files | folders if f"`{name}`" not in text} == set()


def test_the_sensor_of_contributing_reads_watts(tmp_path: Path) -> None:
    amdgpu = contributed("sensors/amdgpu.py")
    with pytest.raises(SensorError, match="is the amdgpu driver loaded"):
        amdgpu.probe(Wanted(), root=tmp_path)
    power = tmp_path / "card1" / "device" / "hwmon" / "hwmon3" / "power1_average"
    power.parent.mkdir(parents=True)
    power.write_text("35000000\n")
    (sensor,) = amdgpu.probe(root=tmp_path)
    assert sensor.device.id == "card1"
    assert sensor.read().power_watts == pytest.approx(35.0)
    power.unlink()
    with pytest.raises(SensorError, match="is gone"):
        sensor.read()


def test_the_factor_of_contributing_knows_day_from_night() -> None:
    roof = contributed("factors/solar_roof.py")
    assert roof.carbon_intensity(Place(), START, START + timedelta(hours=2)).grams_per_kwh == 41.0
    with pytest.raises(FactorError, match="from 10:00 to 20:00"):
        roof.carbon_intensity(Place(), START, START + timedelta(hours=10))


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server of the files in a folder; yields its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_provider_of_contributing_asks_its_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slots = [
        {"from": "2026-06-01T10:00Z", "to": "2026-06-01T10:15Z", "grams_per_kwh": 40},
        {"from": "2026-06-01T10:15Z", "to": "2026-06-01T10:30Z", "grams_per_kwh": "50.5"},
    ]
    (tmp_path / "west").write_text(json.dumps({"slots": slots}))
    campus = contributed("factors/campus.py")
    with served(tmp_path) as address:
        monkeypatch.setenv("GREENML_CAMPUS_URL", address)
        answer = campus.series(Place(), "west", START, START + timedelta(minutes=30), "")
        with pytest.raises(FactorError, match=r"campus: .*404"):
            campus.series(Place(), "east", START, START + timedelta(minutes=30), "")
    assert [slot.grams_per_kwh for slot in answer.slots] == [40.0, 50.5]
    assert (answer.signal, answer.basis, answer.area) == ("average", "direct", "west")


def test_the_price_list_of_contributing_is_asked_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [
        {"size": "1x A10 24GB", "usd_per_hour": 1.11},
        {"size": "1x B200 SXM6 180GB", "usd_per_hour": "on request"},
        {"size": "9x A10 24GB", "usd_per_hour": 9},
    ]
    (tmp_path / "list").write_text(json.dumps({"instances": listed}))
    monkeypatch.setenv("GREENML_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setitem(PRICE_PROVIDERS, "lambda", ("lambda_list", "Lambda's price list"))
    monkeypatch.setitem(sys.modules, "greenml.factors.lambda_list", contributed("factors/lambda_list.py"))
    sizes = [sku for sku in skus.search("*") if sku.cloud == "lambda"]
    with served(tmp_path) as address:
        monkeypatch.setenv("GREENML_LAMBDA_PRICES_URL", f"{address}/list")
        done = prices.update("lambda", sizes)
    assert (done.items, done.prices, done.left_out) == (3, 1, {"no price": 1, "other sizes": 1})
    kept = prices.price(skus.find("lambda/1x A10 24GB"), Place(), "dedicated", datetime.now(timezone.utc))
    assert (kept.usd_per_hour, kept.source.name) == (1.11, f"Lambda's price list, fetched {done.as_of}")


def test_the_importer_and_the_report_of_contributing_work_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "meter.csv"
    log.write_text("time,joules\n2026-06-01T10:00:00+00:00,5000\n2026-06-01T10:01:00+00:00,41000\n")
    part = contributed("record/importers/wall_meter.py").load(log)
    (device,) = part.devices
    assert device.usage.energy_joules == 36000.0
    monkeypatch.setitem(
        sys.modules, "greenml.record.importers.wall_meter", contributed("record/importers/wall_meter.py")
    )
    record = importers.load_by_name("wall_meter", log)
    assert (record.started, record.duration_seconds) == (START, 60.0)
    assert record.devices == part.devices
    log.write_text("time,joules\n")
    with pytest.raises(RecordError, match="two are needed"):
        importers.load_by_name("wall_meter", log)
    line = contributed("reports/line.py").render(accounted(device))
    assert line == "1m 00s, 10.00 Wh, 10.00 g CO2e\n"


def test_the_sink_of_contributing_ends_with_the_figures_of_the_record(tmp_path: Path) -> None:
    from greenml.accounting.status import RunningTotals, RunStatus
    from greenml.sinks import RunInfo

    jsonl = contributed("sinks/jsonl.py")
    with pytest.raises(SettingsError, match="name a file"):
        jsonl.create("")
    path = tmp_path / "figures.jsonl"
    sink = jsonl.create(str(path))
    sink.open(RunInfo("meter"))
    totals = RunningTotals(30.0, 17000.0, 600.0, 5.0, {})
    sink.update(RunStatus("", "running", None, 1, ("a",), 1, totals))
    assert json.loads(path.read_text())["green/energy_joules"] == 17000.0
    usage = Usage(energy_joules=36000.0, covered_seconds=60.0)
    device = DeviceRecord(id="m", kind="cpu", name="m", host="", method="reported", sensor="wall_meter", usage=usage)
    sink.close(accounted(device))
    sink.close(accounted(device))
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["green/energy_joules"] == 36000.0


def accounted(device: DeviceRecord) -> RunRecord:
    from greenml.accounting import assumptions
    from greenml.settings import Settings

    assert isinstance(device.usage, Usage)
    bare = RunRecord(
        greenml_version="0",
        run_id="meter",
        status="completed",
        started=START,
        ended=START + timedelta(seconds=60),
        duration_seconds=60.0,
        place=PlaceRecord(),
        devices=[device],
        factors=Factors(),
    )
    return assumptions.account(bare, Settings(carbon_intensity=1000.0, pue=1.0))
