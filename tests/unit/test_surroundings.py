"""What ran, without what nobody may know."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenml import surroundings
from greenml.surroundings import MASK, masked

LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
secrets = st.text(LETTERS, min_size=16, max_size=40)
odd_secrets = st.text(LETTERS + "+/=._~!$%^*-", min_size=16, max_size=40).filter(lambda text: text[0] not in "-=")
names = st.sampled_from(
    ["api-key", "api_key", "apikey", "token", "hf_token", "hub-token", "auth_token", "password", "passwd", "db-pwd",
     "secret", "client-secret", "aws_secret_access_key", "access-key", "wandb_key", "wandb-key", "account_key",
     "credentials", "sas", "sas_token", "HF_TOKEN", "WANDB_API_KEY"],
)  # fmt: skip

FORMS = {
    "--name value": lambda name, secret: [f"--{name}", secret],
    "--name=value": lambda name, secret: [f"--{name}={secret}"],
    "-name value": lambda name, secret: [f"-{name}", secret],
    "NAME=value": lambda name, secret: [f"{name.upper()}={secret}"],
    "hydra": lambda name, secret: [f"+logger.{name}={secret}"],
    "--env NAME=value": lambda name, secret: ["--env", f"{name}={secret}"],
    "--env=NAME=value": lambda name, secret: [f"--env={name}={secret}"],
    "json": lambda name, secret: ["--config", f'{{"lr": 1, "{name}": "{secret}"}}'],
    "url query": lambda name, secret: [f"https://example.org/data?a=1&{name}={secret}&b=2"],
    "--url=url query": lambda name, secret: [f"--url=https://example.org/data?a=1&{name}={secret}"],
}
VALUES = {
    "hugging face": lambda secret: ["train.py", f"hf_{secret}"],
    "within a word": lambda secret: ["--header", f"x:hf_{secret}"],
    "openai": lambda secret: [f"sk-{secret}"],
    "github": lambda secret: ["--data", f"https://ghp_{secret}@github.com/x.git"],
    "url with a password": lambda secret: [f"--db=postgres://me:{secret}@db.example.org/x"],
    "url with a password, apart": lambda secret: ["--db", f"postgres://me:{secret}@db.example.org:5432/x"],
    "url with a password alone": lambda secret: ["--broker", f"redis://:{secret}@cache:6379/0"],
    "url with a token for a user": lambda secret: ["--repo", f"https://{secret}@example.org/x.git"],
    "azure storage, sas": lambda secret: ["--data", f"https://x.blob.core.windows.net/c?sv=1&sig={secret}&se=2"],
    "azure storage, key": lambda secret: ["--store", f"Protocol=https;AccountName=x;AccountKey={secret}"],
    "bearer": lambda secret: ["--header", f"Authorization: Bearer {secret}"],
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@given(name=names, secret=secrets)
def test_the_value_of_a_secret_option_never_survives(form, name, secret):
    shown = masked(["--lr", "3e-05", *FORMS[form](name, secret), "--epochs", "3"])
    assert secret not in " ".join(shown)
    assert shown[:2] == ["--lr", "3e-05"]
    assert shown[-2:] == ["--epochs", "3"]


@pytest.mark.parametrize("form", ["--name value", "--name=value", "NAME=value"])
@given(name=names, secret=odd_secrets)
def test_nor_does_one_of_any_letters(form, name, secret):
    assert secret not in " ".join(masked(FORMS[form](name, secret)))


@pytest.mark.parametrize("form", VALUES)
@given(secret=secrets)
def test_a_value_that_looks_like_a_secret_never_survives(form, secret):
    assert secret not in " ".join(masked(["--lr", "1", *VALUES[form](secret)]))


@given(before=secrets, after=secrets)
def test_a_password_with_an_at_sign_goes_whole(before, after):
    shown = " ".join(masked(["--db", f"mysql://me:{before}@{after}@db/x"]))
    assert before not in shown
    assert after not in shown


def test_what_is_no_secret_stays():
    words = ["--model_name_or_path", "t5-3b", "--lr=3e-05", "--do_train", "data/x.csv", "https://example.org/a?b=1"]
    assert masked(words) == words
    assert masked(["--api-key", "--do_train"]) == ["--api-key", "--do_train"], "an option is not a value"
    assert masked(["--token=abc"]) == [f"--token={MASK}"]
    assert masked([]) == []


def test_the_command_is_this_ones_without_folders(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", ["/home/me/train.py", "--hub_token", "hunter2", "--x"])
    assert surroundings.command() == ["train.py", "--hub_token", MASK, "--x"]
    monkeypatch.setattr(sys, "argv", [])
    assert surroundings.command() == [""]


def git(folder: Path, *words: str) -> str:
    options = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *options, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_environment_names_the_commit_and_whether_it_was_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in [one for one in os.environ if one.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert "git_commit" not in surroundings.environment(), "not a repository"
    git(tmp_path, "init", "-q")
    (tmp_path / "train.py").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "x")
    found = surroundings.environment()
    assert (found["git_commit"], found["git_dirty"]) == (git(tmp_path, "rev-parse", "HEAD"), False)
    (tmp_path / "new.txt").write_text("untracked files are no change")
    assert surroundings.environment()["git_dirty"] is False
    (tmp_path / "train.py").write_text("2")
    before = set(sys.modules)
    found = surroundings.environment()
    assert found["git_dirty"] is True
    assert found["python"] == platform.python_version()
    assert not {"torch", "numpy", "transformers"} & (set(sys.modules) - before), "versions are read, not imported"


def test_the_host_is_this_one():
    host = surroundings.host()
    assert host["cpu_count"] == os.cpu_count()
    assert host["memory_bytes"] > 10**8
    assert host["os"].startswith(platform.system())
