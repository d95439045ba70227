"""The machine that was measured against the SKU that was named: the record and every report say where they differ."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

import pytest

from greenml.accounting import assumptions
from greenml.accounting.check import check
from greenml.record.schema import DeviceRecord, Factors, Host, PlaceRecord, RunRecord, Usage
from greenml.reports import html, latex, markdown, model_card, terminal
from greenml.reports.card import sections
from greenml.settings import Settings

START = datetime(2024, 7, 6, 21, 15, tzinfo=timezone.utc)
GIB = 1024**3
V100, A100_80, A100_40 = "Tesla V100-SXM2-32GB", "NVIDIA A100-SXM4-80GB", "NVIDIA A100-SXM4-40GB"


def device(kind: str, name: str, number: int = 0, host: str = "node-0", **more) -> DeviceRecord:
    fields = {"method": "counter", "sensor": "nvml", "usage": Usage(energy_joules=3.6e6)} | more
    return DeviceRecord(id=f"{kind}-{host}-{number}", kind=kind, name=name, host=host, **fields)


def gpus(name: str, count: int, host: str = "node-0", **more) -> list[DeviceRecord]:
    return [device("gpu", name, number, host, **more) for number in range(count)]


CPU = device("cpu", "Intel Xeon Platinum 8168", method="estimate", sensor="estimate")


def measured(devices: list[DeviceRecord], sku: str, region: str = "", cloud: str = "", nodes: int = 1) -> RunRecord:
    hosts = [Host(name=f"node-{number}", cloud=cloud) for number in range(nodes)]
    record = RunRecord(
        greenml_version="0.1.0", run_id="r", status="completed", started=START, ended=START + timedelta(hours=1),
        duration_seconds=3600.0, hosts=hosts, place=PlaceRecord(), devices=devices, factors=Factors(),
    )  # fmt: skip
    told = {"sku": sku, "region": region}
    told = {name: value for name, value in told.items() if value}
    return assumptions.account(record, check(Settings(**told, known_from=dict.fromkeys(told, "argument"))))


def mismatches(record: RunRecord) -> list[str]:
    return [note.text for note in record.notes if note.code == "machine-mismatch"]


@pytest.mark.parametrize(
    ("devices", "sku", "cloud", "said"),
    [
        ([CPU], "ND40rs_v2", "", "ND40rs_v2 has (8 X V100): no GPU was seen"),
        (gpus(V100, 4), "ND40rs_v2", "", "4 of its 8 GPUs were seen"),
        (gpus(A100_80, 8), "ND96asr_v4", "", f"it has {A100_40}, and {A100_80} was seen"),
        (gpus(A100_80, 8), "p4d.24xlarge", "", f"{A100_80} was seen"),
        (gpus("NVIDIA H100 80GB HBM3", 8), "ND40rs_v2", "", "NVIDIA H100 80GB HBM3 was seen"),
        (gpus("GRID X99-4Q", 8), "ND40rs_v2", "", "GRID X99-4Q was seen"),
        (gpus("Tesla V100-SXM2", 8, memory_total_bytes=16 * GIB), "ND40rs_v2", "", "with 17 GB was seen"),
        (gpus(V100, 1), "D16s_v3", "", "D16s_v3 has (no GPU): 1 X Tesla V100-SXM2-32GB were seen"),
        (gpus(V100, 9), "ND40rs_v2", "", "9 GPUs were seen"),
        (gpus(V100, 8), "ND40rs_v2", "aws", "the SKU ND40rs_v2 is of azure, and the firmware of node-0 says aws"),
        (gpus(V100, 8), "p3dn.24xlarge", "gcp", "the SKU p3dn.24xlarge is of aws, and the firmware of node-0 says gcp"),
    ],
)  # fmt: skip
def test_what_was_not_seen_is_said_with_both(devices, sku, cloud, said):
    record = measured(devices, sku, cloud=cloud)
    assert any(said in text for text in mismatches(record)), mismatches(record)
    for render in (terminal.render, markdown.render, html.render, latex.render):
        words = re.sub(r"<[^>]*>|[│|\\]", " ", render(record))
        assert "but seen" in " ".join(words.split()), render
    assert record.notes[0].code == "machine-mismatch", "before every other note"


@pytest.mark.parametrize(
    ("devices", "sku", "cloud"),
    [
        (gpus(V100, 8), "ND40rs_v2", ""),
        (gpus(V100, 8, memory_total_bytes=32 * GIB), "ND40rs_v2", "azure"),
        (gpus(A100_40, 8), "p4d.24xlarge", "aws"),
        (gpus("Tesla T4", 1), "NC4as_T4_v3", ""),
        (gpus("NVIDIA A10-4Q", 1, memory_total_bytes=4 * GIB), "NV6ads_A10_v5", ""),
        (gpus("NVIDIA H100 80GB HBM3", 8, memory_total_bytes=81559 * 1024**2), "lambda/gpu_8x_h100_sxm5", ""),
        ([CPU], "D16s_v3", "azure"),
        ([], "ND40rs_v2", ""),
        (gpus("V100", 1, method="reported", sensor="azure_monitor"), "ND40rs_v2", ""),
        ([CPU, *gpus("V100", 8, method=None)], "ND40rs_v2", ""),
    ],
)
def test_a_machine_that_fits_has_no_note(devices, sku, cloud):
    record = measured(devices, sku, cloud=cloud)
    assert mismatches(record) == []
    assert "but seen" not in terminal.render(record)


def test_nodes_count():
    both = [*gpus(V100, 8), *gpus(V100, 8, "node-1")]
    assert mismatches(measured(both, "ND40rs_v2", nodes=2)) == []
    (text,) = mismatches(measured([*gpus(V100, 8), *gpus(V100, 4, "node-1")], "ND40rs_v2", nodes=2))
    assert "2 X ND40rs_v2 has (16 X V100): 12 of its 16 GPUs were seen" in text


def test_a_region_of_another_cloud_is_said_without_a_sku():
    (text,) = mismatches(measured(gpus(V100, 8), "", "azure/westus2", cloud="aws"))
    assert "the region westus2 is of azure, and the firmware of node-0 says aws" in text


def test_the_card_names_what_was_seen():
    for devices, seen in (([CPU], "no GPU"), (gpus(V100, 4), f"4 X {V100}")):
        record = measured(devices, "ND40rs_v2")
        assert sections.hardware_words(record) == f"{seen} (billed as ND40rs_v2)"
        assert f"billed as ND40rs_v2 (8 X V100 32GB), but seen: {seen}" in model_card.render(record)


def test_accounting_again_elsewhere_has_no_such_note():
    record = measured(gpus(V100, 8), "ND40rs_v2", "westus2")
    assert mismatches(assumptions.reaccount(record, sku="ND96asr_v4")) == []
    assert mismatches(assumptions.reaccount(measured(gpus(V100, 4), "ND40rs_v2", "westus2"), tier="low_priority"))
