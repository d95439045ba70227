"""Several nodes: real torch.distributed between machines that have a name, a network and a clock of their own.

A node is three Linux namespaces (host name, network, mounts, the last for a boot identifier of its own); two of them
are joined by a cable of the kernel's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from greenml.record import file as records
from greenml.record.schema import RunRecord
from greenml.trace import file as trace_file
from greenml.trace import trace_paths

NOT_HERE = "no namespaces here (they need Linux, root, and the commands unshare, nsenter and ip)"
PORT = 29611
CABLE = "greenml0"

RANK = """
import json, os, sys, time
from datetime import timedelta
ahead, real = float(sys.argv[2]), time.time
time.time = lambda: real() + ahead
import torch.distributed as dist
import greenml
rank = int(os.environ["RANK"])
run = greenml.track(sys.argv[1]).start()
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
print("up", flush=True)
with run.phase("train"):
    time.sleep(1.5)
    dist.barrier()
if rank == 0:
    run.log(loss=0.5)
if str(rank) == sys.argv[4]:
    print("dying", flush=True)
    time.sleep(60)
took, record = [], None
for _ in range(int(sys.argv[5])):
    began = time.monotonic()
    record = run.gather(float(sys.argv[3]))
    took.append(time.monotonic() - began)
hosts = [host.name for host in record.hosts] if record else []
print(json.dumps({"took": took, "record": record is not None, "hosts": hosts}), flush=True)
sys.stdin.readline()
run.stop()
os._exit(0)
"""


@dataclass
class Rank:
    """A process on a node."""

    process: subprocess.Popen[str]

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def result(self) -> dict:
        said = self.says()
        assert said.startswith("{"), said
        return json.loads(said)

    def end(self) -> None:
        _, errors = self.process.communicate("\n", timeout=60)
        assert self.process.returncode == 0, errors


@dataclass
class Node:
    """A host of its own name and network, with a temporary folder of its own."""

    name: str
    address: str
    folder: Path
    holder: subprocess.Popen[bytes]
    ranks: list[Rank] = field(default_factory=list)

    def inside(self, *words: str) -> list[str]:
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--uts", "--mount", "--", *words]


def namespaces() -> bool:
    if not all(shutil.which(name) for name in ("unshare", "nsenter", "ip")):
        return False
    return subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True).returncode == 0


@pytest.fixture
def nodes(tmp_path: Path):
    if not namespaces():
        pytest.skip(NOT_HERE)
    made = []
    for number, name in enumerate(("node-a", "node-b"), start=1):
        folder = tmp_path / name
        (folder / "tmp").mkdir(parents=True)
        boot_id = folder / "boot_id"
        boot_id.write_text(f"{number:08d}-1111-4222-8333-444444444444\n")
        words = f"mount --bind '{boot_id}' {trace_file.BOOT_ID} && hostname {name} && ip link set lo up && echo up"
        holder = subprocess.Popen(
            ["unshare", "--net", "--uts", "--mount", "sh", "-c", f"{words} && exec sleep 300"], stdout=subprocess.PIPE
        )
        made.append(Node(name, f"10.77.0.{number}", folder, holder))
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
    first, second = made
    cable = ["ip", "link", "add", CABLE, "type", "veth", "peer", "name", CABLE, "netns", str(second.holder.pid)]
    laid = subprocess.run(first.inside(*cable), capture_output=True, text=True)
    for node in made:
        subprocess.run(node.inside("ip", "address", "add", f"{node.address}/24", "dev", CABLE), capture_output=True)
        subprocess.run(node.inside("ip", "link", "set", CABLE, "up"), capture_output=True)
    try:
        if laid.returncode != 0:
            pytest.skip(f"no network between namespaces here: {laid.stderr.strip()}")
        yield made
    finally:
        for node in made:
            for rank in node.ranks:
                rank.process.kill()
                rank.process.communicate()
            node.holder.kill()
            node.holder.communicate()


def launch(nodes, plain_environment, *, each=1, shared=None, ahead=0.0, timeout=30.0, dies=-1, times=1) -> list[Rank]:
    """Start a program of so many ranks a node, as torchrun would; returns when all are in the process group."""
    ranks = []
    for number, node in enumerate(nodes):
        output = (shared or node.folder / "output") / "run.json"
        output.parent.mkdir(exist_ok=True)
        (node.folder / "train.py").write_text(RANK)
        for local in range(each):
            environment = plain_environment | {
                "RANK": str(number * each + local), "WORLD_SIZE": str(len(nodes) * each), "LOCAL_RANK": str(local),
                "TORCHELASTIC_RUN_ID": "job-7", "MASTER_ADDR": nodes[0].address, "MASTER_PORT": str(PORT),
                "GLOO_SOCKET_IFNAME": CABLE, "TMPDIR": str(node.folder / "tmp"), "OMP_NUM_THREADS": "1",
            }  # fmt: skip
            words = [output, ahead if number else 0.0, timeout, dies, times]
            rank = Rank(
                subprocess.Popen(
                    node.inside(sys.executable, str(node.folder / "train.py"), *map(str, words)),
                    cwd=node.folder,
                    env=environment,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            node.ranks.append(rank)
            ranks.append(rank)
    assert [rank.says() for rank in ranks] == ["up"] * len(ranks)
    return ranks


def kill(node: Node) -> None:
    (path,) = trace_paths(node.folder / "output" / "run.trace")
    os.kill(trace_file.read_header(path)["pid"], signal.SIGKILL)


def check_both_nodes(record: RunRecord) -> None:
    """Both nodes are there, and each device once."""
    assert [host.name for host in record.hosts] == ["node-a", "node-b"]
    assert record.place.nodes == 2
    for host in ("node-a", "node-b"):
        kinds = [device.kind for device in record.devices if device.host == host]
        assert kinds.count("cpu") == len(
            {device.id for device in record.devices if (device.host, device.kind) == (host, "cpu")}
        )
        assert "cpu" in kinds
    cpus = [device for device in record.devices if device.kind == "cpu"]
    train = record.phase("train")
    assert train is not None
    for cpu in cpus:
        assert cpu.usage.energy_joules
        covered = train.usage[cpu.id].covered_seconds
        assert train.seconds - 1.0 <= covered <= train.seconds + 0.1  # busy cores find the sensors late


def codes(record: RunRecord) -> list[str]:
    return [note.code for note in record.notes]


def test_nodes_that_share_nothing_become_one_record(nodes, plain_environment):
    """The second node's clock is wrong by a minute and a half."""
    ranks = launch(nodes, plain_environment, each=2, ahead=95.0, times=2)
    results = [rank.result() for rank in ranks]
    assert [result["record"] for result in results] == [True, False, False, False]
    assert results[0]["hosts"] == ["node-a", "node-b"]
    for rank in reversed(ranks):
        rank.end()
    record = records.read(nodes[0].folder / "output" / "run.json")
    check_both_nodes(record)
    assert record.status == "completed"
    assert record.attempts[0].processes == 4
    assert record.duration_seconds < 60
    assert record.metrics["loss"] == 0.5
    (skew,) = {note.text for note in record.notes if note.code == "clock-skew"}
    assert skew == "the clock of node-b was 95.0 s ahead; corrected"
    assert not {"not-gathered", "process-killed", "part-of-run"} & set(codes(record))
    headers = [trace_file.read_header(path) for path in trace_paths(nodes[0].folder / "output" / "run.trace")]
    anchors = {header["host"]: trace_file.anchor(header) for header in headers}
    assert anchors["node-a"] == pytest.approx(anchors["node-b"], abs=0.005), "one kernel: its clocks are one"
    part = records.read(nodes[1].folder / "output" / "run.json")
    assert [note.text for note in part.notes if note.code == "part-of-run"] == [
        "this is the part of node-b; the record of the whole run is on node-a"
    ]
    assert sorted(path.suffix for path in (nodes[0].folder / "output" / "run.trace").iterdir()) == [
        "",
        *[".jsonl"] * 4,
    ], "and the lock"


def test_a_node_that_dies_before_the_gather_is_a_note_and_merged_later(nodes, plain_environment):
    ranks = launch(nodes, plain_environment, timeout=3.0, dies=1, times=2)
    assert ranks[1].says() == "dying"
    time.sleep(1.5)  # its trace is written every second
    kill(nodes[1])
    result = ranks[0].result()
    first, second = result["took"]
    assert 2.5 < first > second, "the second gather does not wait for it again"
    assert result["hosts"] == ["node-a"]
    ranks[0].end()
    record = records.read(nodes[0].folder / "output" / "run.json")
    assert (record.status, record.place.nodes) == ("completed", 1)
    (note,) = [note.text for note in record.notes if note.code == "not-gathered"]
    assert "rank 1 did not answer within 3 s; 'greenml merge' joins them by hand" in note

    sources = [node.folder / "output" / "run.trace" for node in nodes]
    merged = subprocess.run(
        [sys.executable, "-m", "greenml", "merge", *map(str, sources), "--output", "whole.json"],
        cwd=nodes[0].folder, env=plain_environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert merged.returncode == 0, merged.stderr
    whole = records.read(nodes[0].folder / "whole.json")
    check_both_nodes(whole)
    assert whole.status == "completed"
    assert "not-gathered" not in codes(whole)
    assert codes(whole).count("process-killed") == 1


def test_nothing_waits_for_a_rank_0_that_died(nodes, plain_environment):
    ranks = launch(nodes, plain_environment, timeout=3.0, dies=0)
    assert ranks[0].says() == "dying"
    kill(nodes[0])
    result = ranks[1].result()
    assert result["took"][0] < 60, "less than the process group's own limit"
    assert not result["record"]
    ranks[1].end()
    record = records.read(nodes[1].folder / "output" / "run.json")
    assert record.status == "completed"
    assert "not-gathered" in codes(record)


@pytest.mark.parametrize("times", [0, 1])
def test_nodes_that_share_a_folder_need_no_gather(nodes, plain_environment, tmp_path, times):
    shared = tmp_path / "shared"
    ranks = launch(nodes, plain_environment, shared=shared, times=times)
    results = [rank.result() for rank in ranks]
    assert [result["record"] for result in results] == [times > 0, False]
    for rank in reversed(ranks):
        rank.end()
    assert sorted(path.name for path in shared.iterdir()) == ["run.json", "run.trace"]
    record = records.read(shared / "run.json")
    check_both_nodes(record)
    assert record.attempts[0].processes == 2
    assert not {"not-gathered", "clock-skew", "part-of-run"} & set(codes(record))
