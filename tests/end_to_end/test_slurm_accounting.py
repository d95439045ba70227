"""Slurm's own energy accounting, from a node's counter to ``sacct``, beside the records of the jobs that it ran.

Slurm's daemons and its database are the real ones. The counter is a file in the format of HPE's pm_counters, which one
node alone sees at its place below /sys: it grows by 200 W.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_slurm import TRAIN, Slurm, _free_port

import greenml
from greenml.analysis.reconcile.compare import Reconciled, reconcile
from greenml.analysis.reconcile.meters import read

WATTS = 200
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db", "unshare")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0
    or not all(map(shutil.which, PROGRAMS))
    or subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0,
    reason="needs root, mounts of its own, and Debian's slurm-wlm, slurmdbd, mariadb-server and munge",
)
DATABASE = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
"""
ACCOUNTING = """AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStorageUser=root
AccountingStoragePass={folder}/munge.socket
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1,energy=1
AcctGatherEnergyType=acct_gather_energy/pm_counters
AcctGatherNodeFreq=1
PrologFlags=Contain"""
# A /sys of the node's own: that of the machine, and the counters.
NODE = """
mkdir sys && mount -t tmpfs none sys
for each in /sys/*; do mkdir "sys/${each##*/}" && mount --rbind "$each" "sys/${each##*/}"; done
mkdir -p sys/cray/pm_counters && mount --bind counters sys/cray/pm_counters
mount --rbind sys /sys && exec slurmd -D -c
"""


class Accounted(Slurm):
    """A cluster with a database of what its jobs used."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._port, self._over = _free_port(), threading.Event()
        self.accounting = ACCOUNTING.format(port=self._port, folder=folder)
        self.node = ("unshare", "--mount", "sh", "-ec", f"cd {folder}\n{NODE}")
        self.environment["MYSQL_UNIX_PORT"] = f"{folder}/database.socket"

    def _start_accounting(self) -> None:
        data, socket = self.folder / "database", self.folder / "database.socket"
        made = subprocess.run(
            ["mariadb-install-db", f"--datadir={data}", "--user=root", "--auth-root-authentication-method=normal"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        self._run("mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket}", "--skip-networking",
                  "--user=root", f"--pid-file={data}.pid", "--innodb-buffer-pool-size=32M")  # fmt: skip
        self.wait(socket.exists, "the database has no socket")
        configuration = self.folder / "slurmdbd.conf"
        configuration.write_text(DATABASE.format(folder=self.folder, port=self._port))
        configuration.chmod(0o600)
        self._run("slurmdbd", "-D")
        add = ("sacctmgr", "--immediate", "add", "cluster", "greenml-test")
        listed = ("sacctmgr", "--noheader", "list", "cluster")
        self.wait(
            lambda: "greenml-test" in self(*add, check=False) + self(*listed, check=False), "slurmdbd does not answer"
        )
        (self.folder / "counters").mkdir()
        self._count(time.time())
        threading.Thread(target=self._keep_counting, daemon=True).start()

    def _count(self, begun: float) -> None:
        now = time.time()
        for name, value in (("energy", f"{int(WATTS * (now - begun))} J"), ("power", f"{WATTS} W")):
            path = self.folder / "counters" / name
            path.with_suffix(".new").write_text(f"{value} {int(now * 1e6)} us\n")
            path.with_suffix(".new").replace(path)

    def _keep_counting(self) -> None:
        begun = time.time() - 3600
        while not self._over.wait(0.1):
            self._count(begun)

    def stop(self) -> None:
        super().stop()
        self._over.set()

    def sacct(self, path: Path, *words: str) -> str:
        """Write what sacct prints, once all jobs are in the database."""
        path.write_text(self("sacct", *words))
        return str(path)


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Accounted]:
    cluster = Accounted(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_jobs_and_what_slurm_counted_of_them(slurm: Accounted, tmp_path: Path):
    """One alone on the node, and two side by side, one of them requeued."""
    (tmp_path / "train.py").write_text(TRAIN.format(seconds=4))
    line = "greenml run --resume --quiet --output runs/$SLURM_JOB_ID.json -- python train.py"
    script = f"#!/bin/bash\n{line}\n"
    first, second = (slurm.submit(script, "--ntasks=1", "--requeue", cwd=tmp_path) for _ in range(2))
    flag = tmp_path / f"flag-{second}"
    slurm.wait(flag.exists, "the second does not start")
    time.sleep(2)  # Slurm counts in whole seconds
    flag.unlink()
    slurm("scontrol", "requeue", second)
    slurm.wait(lambda: slurm.state(second) == "PENDING", "the second is not requeued")
    slurm("scontrol", "update", f"JobId={second}", "StartTime=now+3")
    slurm.wait(flag.exists, "the second does not start again")
    alone = slurm.submit(script, "--ntasks=1", "--exclusive", cwd=tmp_path)
    slurm.wait_for_the_end(first, second, alone)
    ended = ("sacct", "--noheader", "-X", "-P", "-D", "-o", "State")
    slurm.wait(lambda: slurm(*ended).split() == ["COMPLETED", "REQUEUED", "COMPLETED", "COMPLETED"], "not in sacct")
    rows = slurm.sacct(tmp_path / "rows", "-P", "-D", "-o", "JobIDRaw,ConsumedEnergyRaw,Start,End,NNodes")
    text = slurm.sacct(tmp_path / "json", "--json")

    def held(job: str, path: str, options: str) -> Reconciled:
        record = greenml.open_record(tmp_path / "runs" / f"{job}.json")
        [meter] = read(f"sacct:{path},boundary=node-dc{options}", [record])
        return reconcile([record], meter)

    for job, attempts in ((first, 1), (second, 2), (alone, 1)):
        by_rows, by_json = held(job, rows, ",exclusive=yes"), held(job, text, ",exclusive=yes")
        assert by_rows.meter.joules == by_json.meter.joules
        assert by_rows.meter.seconds == by_json.meter.seconds
        assert by_json.meter.why == ""
        assert by_json.meter.joules == pytest.approx(WATTS * by_json.meter.seconds, abs=2 * WATTS * attempts)
        assert by_json.verdict != "differ"
        assert "exclusive=yes" in held(job, text, "").meter.shared
        assert len(greenml.open_record(tmp_path / "runs" / f"{job}.json").attempts) == attempts
    last = slurm.sacct(tmp_path / "last", "-P", "-o", "JobIDRaw,ConsumedEnergyRaw,Start,End,NNodes")
    assert "the record is of 2 attempts, last has 1" in held(second, last, ",exclusive=yes").why
    assert json.loads(Path(text).read_text())["jobs"]
