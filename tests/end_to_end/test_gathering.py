"""Several nodes: real torch.distributed between machines that have a name, a network and a clock of their own.

A node is a pair of Linux namespaces (host name, network); two of them are joined by a cable of the kernel's.
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

from greenml import record_file as records
from greenml import trace
from greenml.record import RunRecord

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
began, record = time.monotonic(), None
for _ in range(int(sys.argv[5])):
    record = run.gather(float(sys.argv[3]))
hosts = [one.name for one in record.hosts] if record else []
print(json.dumps({"took": time.monotonic() - began, "record": record is not None, "hosts": hosts}), flush=True)
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

    def told(self) -> dict:
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
        return ["nsenter", "--target", str(self.holder.pid), "--net", "--uts", "--", *words]


def namespaces() -> bool:
    if not all(shutil.which(name) for name in ("unshare", "nsenter", "ip")):
        return False
    return subprocess.run(["unshare", "--net", "--uts", "true"], capture_output=True).returncode == 0


@pytest.fixture
def nodes(tmp_path: Path):
    if not namespaces():
        pytest.skip(NOT_HERE)
    made = []
    for number, name in enumerate(("node-a", "node-b"), start=1):
        folder = tmp_path / name
        (folder / "tmp").mkdir(parents=True)
        words = f"hostname {name} && ip link set lo up && echo up && exec sleep 300"
        holder = subprocess.Popen(["unshare", "--net", "--uts", "sh", "-c", words], stdout=subprocess.PIPE)
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
                    node.inside(sys.executable, "train.py", *map(str, words)),
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
    (path,) = trace.paths(node.folder / "output" / "run.trace")
    os.kill(trace.read_header(path)["pid"], signal.SIGKILL)


def check_both_nodes(record: RunRecord) -> None:
    """Both nodes are there, and each device once."""
    assert [one.name for one in record.hosts] == ["node-a", "node-b"]
    assert record.place.nodes == 2
    for host in ("node-a", "node-b"):
        kinds = [one.kind for one in record.devices if one.host == host]
        assert kinds.count("cpu") == len({one.id for one in record.devices if (one.host, one.kind) == (host, "cpu")})
        assert "cpu" in kinds
    cpus = [one for one in record.devices if one.kind == "cpu"]
    train = record.phase("train")
    assert train is not None
    for one in cpus:
        assert one.usage.energy_joules
        covered = train.usage[one.id].covered_seconds
        assert covered == pytest.approx(train.seconds, abs=0.3)


def codes(record: RunRecord) -> list[str]:
    return [note.code for note in record.notes]


def test_nodes_that_share_nothing_become_one_record(nodes, plain_environment):
    """The second node's clock is wrong by a minute and a half."""
    ranks = launch(nodes, plain_environment, each=2, ahead=95.0, times=2)
    told = [rank.told() for rank in ranks]
    assert [one["record"] for one in told] == [True, False, False, False]
    assert told[0]["hosts"] == ["node-a", "node-b"]
    assert max(one["took"] for one in told) < 20
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
    headers = [trace.read_header(path) for path in trace.paths(nodes[0].folder / "output" / "run.trace")]
    anchors = {one["host"]: trace.anchor(one) for one in headers}
    assert anchors["node-a"] == pytest.approx(anchors["node-b"], abs=0.005), "one kernel: its clocks are one"
    part = records.read(nodes[1].folder / "output" / "run.json")
    assert [note.text for note in part.notes if note.code == "part-of-run"] == [
        "this is the part of node-b; the record of the whole run is on node-a"
    ]
    assert sorted(path.suffix for path in (nodes[0].folder / "output" / "run.trace").iterdir()) == [".jsonl"] * 4


def test_a_node_that_dies_before_the_gather_is_a_note_and_merged_later(nodes, plain_environment):
    ranks = launch(nodes, plain_environment, timeout=3.0, dies=1, times=2)
    assert ranks[1].says() == "dying"
    time.sleep(1.5)  # its trace is written every second
    kill(nodes[1])
    told = ranks[0].told()
    assert 2.5 < told["took"] < 5.5, "the second gather does not wait for it again"
    assert told["hosts"] == ["node-a"]
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
    told = ranks[1].told()
    assert told["took"] < 6
    assert not told["record"]
    ranks[1].end()
    record = records.read(nodes[1].folder / "output" / "run.json")
    assert record.status == "completed"
    assert "not-gathered" in codes(record)


@pytest.mark.parametrize("times", [0, 1])
def test_nodes_that_share_a_folder_need_no_gather(nodes, plain_environment, tmp_path, times):
    shared = tmp_path / "shared"
    ranks = launch(nodes, plain_environment, shared=shared, times=times)
    told = [rank.told() for rank in ranks]
    assert [one["record"] for one in told] == [times > 0, False]
    assert max(one["took"] for one in told) < 10
    for rank in reversed(ranks):
        rank.end()
    assert sorted(one.name for one in shared.iterdir()) == ["run.json", "run.trace"]
    record = records.read(shared / "run.json")
    check_both_nodes(record)
    assert record.attempts[0].processes == 2
    assert not {"not-gathered", "clock-skew", "part-of-run"} & set(codes(record))
