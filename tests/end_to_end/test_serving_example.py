"""The serving example as its users start it: exported, served, compared, shown; its files for Triton and AzureML."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "serving"
NEEDED = ("torch", "transformers", "onnx", "onnxruntime", "onnxscript", "fastapi", "uvicorn", "rouge_score")
LIMIT_SECONDS = 900
DIALOGUE = "Nadia: Did you feed the cat this morning?\nTom: I thought you did."

missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
needs_models = pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


def environment(**more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("GREENML_", "CUDA_"))}
    return plain | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "GREENML_REGION": "SWE"} | more


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """The tiny T5 in all engines, with Triton's repository beside it; all tests of this file serve it."""
    folder = tmp_path_factory.mktemp("exported")
    words = [
        "export.py",
        "--model",
        "smoke-t5",
        "--output",
        str(folder / "tiny"),
        "--triton",
        str(folder / "repository"),
    ]
    done = subprocess.run(
        [sys.executable, *words], cwd=EXAMPLE, env=environment(), capture_output=True, text=True, timeout=LIMIT_SECONDS
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


@needs_models
@pytest.mark.skipif(shutil.which("hey") is None, reason="not installed: hey (apt-get install hey)")
def test_the_engines_are_compared(exported, tmp_path):
    """Each engine is served by uvicorn, put under load by hey, and scored; their records and the table are there."""
    words = ["compare.py", str(exported / "tiny"), "--clients", "2", "--seconds", "1", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *words], cwd=EXAMPLE, env=environment(GREENML_PRICE_PER_HOUR="1"), capture_output=True,
        text=True, timeout=LIMIT_SECONDS,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    results = json.loads((tmp_path / "comparison.json").read_text())
    assert list(results) == ["pytorch", "onnx", "onnx-int8"]
    for engine, result in results.items():
        (load,) = result["loads"]
        assert load["requests"] > 0
        assert load["failed"] == 0
        assert load["joules_per_token"]["value"] > 0
        assert result["rouge"]["rougeL"]["value"] is not None
        serving = json.loads((tmp_path / f"serving-{engine}.json").read_text())
        assert serving["status"] == "completed"
        bench = json.loads((tmp_path / f"bench-{engine}.json").read_text())
        assert {total["scope"] for total in bench["totals"]} == {"run", "clients-2", "clients-2/requests"}
    assert results["pytorch"]["rouge"] == results["onnx"]["rouge"]  # the export is the same model
    table = (tmp_path / "comparison.md").read_text()
    assert re.search(r"^\| onnx-int8 \| 2 \| \d+ \|", table, re.MULTILINE)


@needs_models
def test_an_answer_tells_its_energy(exported, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port), "--log-level", "warning"], cwd=EXAMPLE,
        env=environment(SUMMARIZER=str(exported / "tiny"), ENGINE="onnx", GREENML_OUTPUT=str(tmp_path / "run.json")),
    )  # fmt: skip
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + LIMIT_SECONDS
    try:
        while True:
            try:
                assert json.load(urllib.request.urlopen(f"{url}/health"))["engine"] == "onnx"
                break
            except OSError:
                assert child.poll() is None
                assert time.monotonic() < end
                time.sleep(0.1)
        body = json.dumps({"dialogue": DIALOGUE}).encode()
        request = urllib.request.Request(f"{url}/summarize", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as reply:
            answer = json.load(reply)
        assert answer["usage"]["prompt_tokens"] > 10
        assert 0 < answer["usage"]["completion_tokens"] <= 24
        assert "energy" in answer["usage"]
        with pytest.raises(urllib.error.HTTPError, match="422"):
            urllib.request.urlopen(
                urllib.request.Request(f"{url}/summarize", b"{}", {"Content-Type": "application/json"})
            )
    finally:
        child.terminate()
        child.wait(60)


@needs_models
def test_triton_s_configuration_is_that_of_the_models(exported):
    """Names, types and dimensions beside what ONNX Runtime says of the exported files; the batch is left out there."""
    import onnxruntime

    kinds = {"tensor(int64)": "TYPE_INT64", "tensor(float)": "TYPE_FP32"}
    for part in ("encoder", "decoder"):
        folder = exported / "repository" / f"summarizer_{part}"
        config = (folder / "config.pbtxt").read_text()
        session = onnxruntime.InferenceSession(folder / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        told = re.findall(r'name: "(\w+)", data_type: (\w+), dims: \[ ([-\d, ]+) \]', config)
        known = {
            each.name: (kinds[each.type], len(each.shape) - 1)
            for each in (*session.get_inputs(), *session.get_outputs())
        }
        assert {name: (kind, len(dims.split(","))) for name, kind, dims in told} == known
        assert f'name: "summarizer_{part}"' in config


@needs_models
@pytest.mark.skipif(importlib.util.find_spec("gradio_client") is None, reason="not installed: gradio")
def test_the_demo_shows_each_answer_s_energy(exported, tmp_path):
    """Started as its users do, and asked over its own interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = environment(GREENML_OUTPUT=str(tmp_path / "demo.json"), GRADIO_ANALYTICS_ENABLED="False")
    words = [sys.executable, "demo.py", str(exported / "tiny"), "--engine", "onnx-int8", "--port", str(port)]
    child = subprocess.Popen(words, cwd=EXAMPLE, env=settings, stdout=subprocess.DEVNULL)
    code = (
        "import json, sys, time, gradio_client\n"
        "end = time.monotonic() + 300\n"
        "while True:\n"
        "    try:\n"
        "        client = gradio_client.Client(sys.argv[1], verbose=False)\n"
        "        break\n"
        "    except Exception:\n"
        "        assert time.monotonic() < end\n"
        "        time.sleep(0.5)\n"
        "print(json.dumps([client.predict(sys.argv[2], api_name='/summarize') for _ in range(2)]))\n"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, f"http://127.0.0.1:{port}", DIALOGUE], env=settings, capture_output=True,
            text=True, timeout=LIMIT_SECONDS,
        )  # fmt: skip
    finally:
        child.terminate()
        child.wait(60)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = json.loads(done.stdout.splitlines()[-1])
    for _, energy, carbon, _ in (first, second):
        assert re.match(r"[\d.e-]+ J \(", energy)
        assert carbon.endswith(" mg CO2e")
    assert first[3] == "100.0% of today's requests"
    assert second[3] != first[3]


azure = pytest.mark.skipif(importlib.util.find_spec("azure") is None, reason="not installed: azure-ai-ml")


@azure
@pytest.mark.parametrize(
    ("name", "kind", "right", "wrong"),
    [
        ("endpoint.yml", "load_online_endpoint", "", ""),
        ("endpoint.yml", "load_online_endpoint", "auth_mode: key", "auth_mode: none_at_all"),
        ("deployment.yml", "load_online_deployment", "", ""),
        ("deployment.yml", "load_online_deployment", "instance_count: 2", "instance_count: two"),
        ("deployment.yml", "load_online_deployment", "request_settings:", "request_setting:"),
    ],
)
def test_azure_takes_the_files_and_refuses_them_broken(tmp_path, name, kind, right, wrong):
    with warnings.catch_warnings():  # those of its own dependencies
        warnings.simplefilter("ignore")
        ml = pytest.importorskip("azure.ai.ml")
        if not right:
            made = getattr(ml, kind)(EXAMPLE / "azure-endpoint" / name)
            assert made.name in ("greenml-summaries", "onnx")
            return
        text = (EXAMPLE / "azure-endpoint" / name).read_text()
        assert text.count(right) == 1
        shutil.copytree(EXAMPLE / "azure-endpoint", tmp_path / "azure-endpoint")
        (tmp_path / "azure-endpoint" / name).write_text(text.replace(right, wrong))
        with pytest.raises(Exception, match=r"(?i)valid|allowed|unknown|missing|type|one of"):
            getattr(ml, kind)(tmp_path / "azure-endpoint" / name)


@azure
def test_the_deployment_asks_what_the_app_answers():
    from greenml.accounting.check import check
    from greenml.settings import resolve

    yaml = pytest.importorskip("yaml")
    deployment = yaml.safe_load((EXAMPLE / "azure-endpoint" / "deployment.yml").read_text())
    endpoint = yaml.safe_load((EXAMPLE / "azure-endpoint" / "endpoint.yml").read_text())
    assert deployment["endpoint_name"] == endpoint["name"]
    app = (EXAMPLE / "app.py").read_text()
    routes = deployment["environment"]["inference_config"]
    assert f'@app.post("{routes["scoring_route"]["path"]}")' in app
    assert f'@app.get("{routes["liveness_route"]["path"]}")' in app
    settings = check(resolve({}, {key: str(value) for key, value in deployment["environment_variables"].items()}))
    assert deployment["instance_type"] == f"Standard_{settings.sku}"
    dockerfile = (EXAMPLE / "azure-endpoint" / "environment" / "Dockerfile").read_text()
    assert str(routes["scoring_route"]["port"]) in dockerfile
