"""Gathering without a network: the comparison of clocks, and that nothing happens where nobody else is."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import types
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from greenml.run import gather
from greenml.run.gather import Exchange, ahead_seconds


def exchange(sent: float, *, ahead: float, there: float, thought: float, back: float) -> Exchange:
    heard = sent + there + ahead
    return Exchange(sent, heard, heard + thought, sent + there + thought + back)


@pytest.mark.parametrize("ahead", [0.0, 95.25, -86400.0])
def test_the_exchange_that_was_the_least_on_its_way_counts(ahead: float):
    exchanges = [
        exchange(10.0, ahead=ahead, there=0.2, thought=0.5, back=0.01),
        exchange(11.0, ahead=ahead, there=0.001, thought=2.0, back=0.0012),
        exchange(12.0, ahead=ahead, there=0.001, thought=0.0, back=0.4),
    ]
    assert ahead_seconds(exchanges) == pytest.approx(ahead, abs=0.0002)


@pytest.mark.parametrize(("there", "back"), [(0.3, 0.0), (0.0, 0.3), (0.1, 0.2)])
def test_it_is_wrong_by_half_the_travel_at_the_most(there: float, back: float):
    one = exchange(5.0, ahead=7.0, there=there, thought=1.0, back=back)
    assert one.travel_seconds == pytest.approx(0.3)
    assert abs(one.ahead_seconds - 7.0) <= 0.15 + 1e-9


def test_without_torch_nothing_is_imported_and_nothing_happens(tmp_path: Path):
    code = (
        "import json, sys, greenml\n"
        "with greenml.track('run.json') as run:\n"
        "    record = run.gather(5.0)\n"
        "print(json.dumps([record is not None and record.status, 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["running", False]


OVER, WAITED_FOR = threading.Event(), []


class Store:
    """A store that has nothing, fails, or never answers."""

    def __init__(self, check: Any) -> None:
        self.check = check
        self.kept: dict[str, Any] = {}

    def set(self, name: str, value: Any) -> None:
        self.kept[name] = value

    def wait(self, names: list[str], patience: timedelta) -> None:
        raise RuntimeError("wait timeout")


def fail(_: object) -> bool:
    raise RuntimeError("Broken pipe\nException raised from sendBytes\nframe #0: c10::Error")


def hang(_: object) -> bool:
    WAITED_FOR.append(not OVER.wait(60))
    return False


@pytest.fixture
def hanging():
    OVER.clear()
    yield
    OVER.set()
    for thread in threading.enumerate():
        if thread.name == "greenml-gather":
            thread.join(60)


@pytest.mark.usefixtures("hanging")
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("check", "text"),
    [
        (lambda _: False, r"rank 1 did not answer within 0.2 s|TimeoutError: no answer \(hello\)"),
        (fail, "RuntimeError: Broken pipe; 'greenml merge'"),
        (hang, "the store of torch.distributed did not answer for 0.2 s"),
    ],
    ids=["silent", "broken", "hanging"],
)
def test_trouble_is_a_note_in_time(tmp_path: Path, monkeypatch, rank: int, check: Any, text: str):
    store = Store(check)
    distributed = types.SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: rank, get_world_size=lambda: 2,
        distributed_c10d=types.SimpleNamespace(_get_default_store=lambda: store), PrefixStore=lambda _, inner: inner,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)
    monkeypatch.setattr(gather, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(gather, "_lost", set())
    monkeypatch.setattr(gather, "_own_header", lambda _: {"run_id": "r", "attempt": 1})
    gathered = gather.gather(tmp_path, timeout_seconds=0.2)
    assert gathered.rank == rank
    (line,) = gathered.lines
    assert line["note"] == "not-gathered"
    assert re.search(text, line["text"])
    assert "\n" not in line["text"]
    assert gather.gather(tmp_path, timeout_seconds=0.2).lines == [], "who did not answer is not waited for again"
    assert True not in WAITED_FOR, "a store that hangs still does"


def test_a_process_group_without_a_store_is_a_note(tmp_path: Path, monkeypatch):
    distributed = types.SimpleNamespace(
        is_available=lambda: True, is_initialized=lambda: True, get_rank=lambda: 3, get_world_size=lambda: 8
    )
    monkeypatch.setitem(sys.modules, "torch.distributed", distributed)
    monkeypatch.setattr(gather, "_lost", set())
    monkeypatch.setattr(gather, "_own_header", lambda _: {"run_id": "r", "attempt": 1})
    gathered = gather.gather(tmp_path, timeout_seconds=1.0)
    assert gathered.rank == 3
    assert "AttributeError" in gathered.lines[0]["text"]
