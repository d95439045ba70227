"""What ran, without what nobody may know."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from greenml.redaction import MASK
from greenml.run import assembly, environment
from greenml.trace.file import TraceWriter


def test_the_command_is_this_ones_without_folders(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/train.py", "--hub_token", "hunter2", "--x"])
    assert environment.command() == ["train.py", "--hub_token", MASK, "--x"]
    monkeypatch.setattr(sys, "argv", [])
    assert environment.command() == [""]


def git(folder: Path, *words: str) -> str:
    options = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *options, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/PID/io is Linux's")
def test_what_children_wrote_to_disk_is_told_without_what_this_process_wrote(tmp_path: Path):
    before, children_before = environment.disk_written_bytes(), environment.disk_written_bytes(of_children=True) or 0
    (tmp_path / "own").write_bytes(b"x" * 3_000_000)
    own = (environment.disk_written_bytes() or 0) - (before or 0)
    if own < 3_000_000:
        pytest.skip("the temporary folder is not on a disk")
    assert (environment.disk_written_bytes(of_children=True) or 0) - children_before == 0
    subprocess.run([sys.executable, "-c", "open('child', 'wb').write(b'x' * 1_000_000)"], cwd=tmp_path, check=True)
    children = (environment.disk_written_bytes(of_children=True) or 0) - children_before
    assert 1_000_000 <= children < 2_000_000


def test_a_parent_that_watches_tells_for_its_machine_alone(tmp_path: Path):
    """A parent on one machine of two: its child's own figure is in its own, the other machine's is not."""
    for number, (host, role, written) in enumerate(
        [("a", {"watches": True}, 1000), ("a", {"rank": 0}, 900), ("b", {"rank": 1}, 70)]
    ):
        header = {"run_id": "r", "host": host, "pid": number, "start_seconds": 0.0, "unix_seconds": 1e9, **role}
        writer = TraceWriter(tmp_path / f"1-{host}-{number}.jsonl", header)
        writer.write({"facts": {"disk": {"written_bytes": written}}, "t": 9.0})
        writer.write({"status": "completed", "error": None, "t": 10.0})
        writer.close()
    assert assembly.assemble(tmp_path)[0].trainer["disk_written_bytes"] == 1070


def test_the_environment_names_the_commit_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in [one for one in os.environ if one.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "git_commit" not in environment.environment(), "not a repository"
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    found = environment.environment()
    assert (found["git_commit"], found["git_dirty"]) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "new.txt").write_text("untracked files are no change")
    assert environment.environment()["git_dirty"] is False
    (tmp_path / "train.py").write_text("2")
    before = set(sys.modules)
    found = environment.environment()
    assert found["git_dirty"] is True
    assert found["python"] == platform.python_version()
    assert not {"torch", "numpy", "transformers"} & (set(sys.modules) - before), "versions are read, not imported"


def test_what_a_program_warns_of_once_is_still_shown_once(tmp_path: Path):
    """Filters of warnings are the whole process's: a run changes none of them, not for a moment, in no thread."""
    code = """
import sys, time, warnings
import greenml
for number in range(4):
    warnings.warn("once")
    with greenml.track(f"{number}.json", price_per_hour=1.0) as run:
        time.sleep(0.1)
    sys.stdout.write(str(run.record.environment.os) + "\\n")
"""
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stderr.count("UserWarning: once") == 1, done.stderr
    assert set(done.stdout.split()) == {platform.platform()}


def test_the_host_is_this_one():
    host = environment.host()
    assert host["cpu_count"] == os.cpu_count()
    assert host["memory_bytes"] > 10**8
    assert host["os"].startswith(platform.system())
