"""The AzureML example against Azure's own schema library, without a network; and against the files that it names."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "azureml"
JOBS = ("job.yml", "sweep.yml")
FILES = {
    "job.yml": "load_job",
    "sweep.yml": "load_job",
    "compute.yml": "load_compute",
    "environment.yml": "load_environment",
}


def is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it is missing
        return False


needs_azure = pytest.mark.skipif(not is_installed("azure.ai.ml"), reason="not installed: azure-ai-ml")
needs_yaml = pytest.mark.skipif(not is_installed("yaml"), reason="not installed: pyyaml")


@pytest.fixture
def load():
    """Read a file with Azure's library, which raises on what it does not know; returns what it made of it."""

    def read(path: Path, kind: str):
        from azure.ai import ml

        return getattr(ml, kind)(path)

    with warnings.catch_warnings():  # those of its own dependencies
        warnings.simplefilter("ignore")
        yield read


def text_of(name: str) -> str:
    return (EXAMPLE / name).read_text()


def plain(name: str) -> dict:
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load(text_of(name))


def part(name: str) -> dict:
    """What a job runs: the job itself, or a sweep's trial."""
    job = plain(name)
    return job.get("trial", job)


@needs_azure
@pytest.mark.parametrize("name", FILES)
def test_azure_takes_the_file(load, name):
    made = load(EXAMPLE / name, FILES[name])
    if hasattr(made, "_validate"):
        checked = made._validate()
        assert checked.passed, checked.error_messages


@needs_azure
@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("job.yml", "\nenvironment_variables:", "\nenvironment_variable:"),
        ("job.yml", "mode: rw_mount", "mode: rw_mounted"),
        ("job.yml", "shm_size:", "shared_memory:"),
        ("job.yml", "timeout: 14400", "timeout: four hours"),
        ("job.yml", "type: command", "type: commando"),
        ("sweep.yml", "goal: maximize", "goal: most"),
        ("sweep.yml", "max_total_trials: 6", "total_trials: 6"),
        ("sweep.yml", "type: median_stopping", "type: median"),
        ("sweep.yml", "sampling_algorithm: random", "sampling_algorithm: lucky"),
        ("sweep.yml", "\n  command: >-", "\n  run: >-"),
        ("compute.yml", "tier: low_priority", "tier: cheap"),
        ("compute.yml", "max_instances: 2", "max_instances: two"),
        ("compute.yml", "idle_time_before_scale_down", "idle_seconds"),
        ("environment.yml", "dockerfile_path", "dockerfile"),
    ],
)
def test_azure_refuses_the_file_once_it_is_broken(load, tmp_path, name, right, wrong):
    assert text_of(name).count(right) == 1
    broken = tmp_path / name
    broken.write_text(text_of(name).replace(right, wrong).replace("code: ../..", f"code: {ROOT}"))
    with pytest.raises(Exception, match=r"(?i)valid|allowed|unknown|missing|type"):
        load(broken, FILES[name])


@needs_azure
def test_what_azure_understood(load):
    compute = load(EXAMPLE / "compute.yml", "load_compute")
    assert (compute.size, compute.tier, compute.min_instances) == ("Standard_ND40rs_v2", "low_priority", 0)
    job = load(EXAMPLE / "job.yml", "load_job")
    environment = load(EXAMPLE / "environment.yml", "load_environment")
    assert job.compute == compute.name
    assert job.environment == f"{environment.name}:{environment.version}"
    assert job.resources.instance_count == 1
    sweep = load(EXAMPLE / "sweep.yml", "load_job")
    assert sweep.compute == compute.name
    assert (sweep.objective.primary_metric, sweep.limits.max_total_trials) == ("eval_rougeLsum", 6)
    assert sweep.limits.max_concurrent_trials == compute.max_instances


@needs_yaml
@pytest.mark.parametrize("name", JOBS)
def test_greenml_knows_the_machine_and_the_place(name):
    from greenml.accounting.assumptions import check
    from greenml.settings import resolve

    told = {key: str(value) for key, value in part(name)["environment_variables"].items()}
    settings = check(resolve({}, told))
    compute = plain("compute.yml")
    assert f"Standard_{settings.sku}" == compute["size"]
    assert (settings.region.rpartition("/")[2], settings.tier) == (compute["location"], compute["tier"])


@needs_yaml
@pytest.mark.parametrize("name", JOBS)
def test_scripts_and_configurations_are_there(name):
    trial = part(name)
    code = (EXAMPLE / trial["code"]).resolve()
    assert (code / "pyproject.toml").is_file()  # greenml is installed from the job's own code
    folder = code / re.search(r"cd (\S+)", trial["command"])[1]
    for path in re.findall(r"\S+\.(?:py|json)\b", trial["command"]):
        assert (folder / path).is_file(), path
    build = plain("environment.yml")["build"]
    assert (EXAMPLE / build["path"] / build["dockerfile_path"]).is_file()
    dockerfile = (EXAMPLE / build["path"] / build["dockerfile_path"]).read_text()
    for copied in re.findall(r"^COPY (\S+)", dockerfile, re.MULTILINE):
        assert (EXAMPLE / build["path"] / copied).is_file()


@needs_yaml
@pytest.mark.parametrize("name", JOBS)
def test_a_job_can_go_on(name):
    """Checkpoints and the record go to a folder that outlives the machine."""
    job = plain(name)
    assert job["outputs"]["run"]["mode"] == "rw_mount"
    assert "--output_dir ${{outputs.run}}" in part(name)["command"]
    assert re.search(r"--save_strategy (steps|epoch)", part(name)["command"])


@needs_yaml
@pytest.mark.parametrize("name", JOBS)
def test_every_placeholder_is_filled_and_every_input_used(name):
    job = plain(name)
    used = set(re.findall(r"\$\{\{(\w+\.\w+)\}\}", part(name)["command"]))
    given = {f"{kind}.{key}" for kind in ("inputs", "outputs", "search_space") for key in job.get(kind, {})}
    assert used == given


@needs_yaml
@pytest.mark.parametrize("name", JOBS)
def test_the_example_understands_the_command(name):
    needed = ("torch", "transformers", "accelerate", "datasets", "rouge_score")
    if missing := [one for one in needed if not is_installed(one)]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    job = plain(name)
    values = {f"inputs.{key}": str(value) for key, value in job["inputs"].items()} | {"outputs.run": "run"}
    values |= {f"search_space.{key}": str(value["values"][0]) for key, value in job.get("search_space", {}).items()}
    words = re.sub(r"\$\{\{(\S+?)\}\}", lambda found: values[found[1]], part(name)["command"]).split()
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import finetune\n"
        "known, unknown = finetune.command_line().parse_known_args(sys.argv[2:])\n"
        "print('parsed', json.dumps([unknown, known.learning_rate, known.fp16, known.max_usd, known.freeze_encoder]))"
    )
    told = words[words.index("finetune.py") + 1 :]
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "examples" / "summarization"), *told],
        env=os.environ | {"DS_ACCELERATOR": "cpu"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    (parsed,) = [json.loads(line[7:]) for line in done.stdout.splitlines() if line.startswith("parsed ")]
    learning_rate, frozen = (3e-5, False) if name == "job.yml" else (1e-5, True)
    assert parsed == [[], learning_rate, True, float(job["inputs"]["max_usd"]), frozen], done.stderr


@needs_yaml
def test_the_sweep_looks_at_a_metric_that_is_logged():
    sweep = plain("sweep.yml")
    assert sweep["objective"]["primary_metric"] == "eval_rougeLsum"
    assert "--report_to mlflow" in sweep["trial"]["command"]
    assert "azureml-mlflow==" in text_of("environment/requirements.txt")


def test_every_version_is_pinned_and_has_what_greenml_needs():
    lines = [line for line in text_of("environment/requirements.txt").splitlines() if not line.startswith("#")]
    pinned = dict(line.split("==") for line in lines)
    project = (ROOT / "pyproject.toml").read_text()
    needed = re.search(r"\ndependencies = \[(.*?)\]", project, re.DOTALL)[1]
    names = re.findall(r'"([a-z0-9-]+)[^"]*"', re.sub(r'"[^"]*python_version[^"]*"', "", needed))
    assert set(names) <= set(pinned)
    assert {"torch", "transformers", "deepspeed", "accelerate", "datasets", "rouge_score"} <= set(pinned)
