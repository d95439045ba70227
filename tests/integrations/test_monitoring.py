"""examples/monitoring: Prometheus takes its files, the rules do what they say, the dashboard is one of Grafana's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard

from greenml.sinks._names import METRICS

FOLDER = Path(__file__).parents[2] / "examples" / "monitoring"
NAMES = {metric.prometheus: metric for metric in METRICS}
INFO = "greenml_run_info"


def expressions() -> list[str]:
    """Return the queries of the dashboard as Grafana sends them: its variables stand for everything."""
    panels = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
    return [target["expr"].replace("$job", ".*").replace("$instance", ".*") for p in panels for target in p["targets"]]


def rules() -> list[dict]:
    groups = yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def promtool(*words: str, folder: Path = FOLDER) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    done = subprocess.run(["promtool", *words], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "words", ["check config prometheus.yml", "check rules --lint-fatal rules.yml", "test rules rules_test.yml"]
)
def test_prometheus_takes_the_files(words):
    promtool(*words.split())


def test_prometheus_takes_the_queries_of_the_dashboard(tmp_path):
    group = {"name": "dashboard", "rules": [{"record": f"a{i}", "expr": text} for i, text in enumerate(expressions())]}
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [group]}))
    promtool("check", "rules", "queries.yml", folder=tmp_path)


def test_every_name_is_one_that_greenml_shows():
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    for expression in [*expressions(), *(rule["expr"] for rule in rules())]:
        names = set(re.findall(r"\bgreenml\w*(?::\w+)*", expression)) - {"greenml"}
        assert names <= {*NAMES, INFO, *recorded}, expression
        # A counter is summed or rated, and a label is one that its metric has.
        for name, selected in re.findall(r"(greenml_\w+)\{([^}]*)\}", expression):
            labels = {*NAMES[name].labels, "job", "instance"} if name in NAMES else {"job", "instance", "status"}
            assert set(re.findall(r"(\w+)=", selected)) <= labels
    for metric in METRICS:
        assert any(metric.prometheus in text for text in expressions()), f"{metric.prometheus} is not drawn"


def test_the_dashboard_is_one_of_grafana():
    """Grafana's own types read all of it, and write the same."""
    given = json.loads((FOLDER / "dashboard.json").read_text())
    written = json.loads(json.dumps(Dashboard.from_json(given).to_json(), default=lambda model: model.to_json()))
    assert differences(given, written) == []
    panels = given["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "panels overlap"
    assert max(x for x, _ in cells) < 24


def differences(given: object, written: object, path: str = "") -> list[str]:
    """Return where what was written lacks something of what was given."""
    if isinstance(given, dict) and isinstance(written, dict):
        return [text for key in given for text in differences(given[key], written.get(key), f"{path}.{key}")]
    if isinstance(given, list) and isinstance(written, list) and len(given) == len(written):
        pairs = enumerate(zip(given, written, strict=True))
        return [text for i, (before, after) in pairs for text in differences(before, after, f"{path}[{i}]")]
    return [] if given == written else [f"{path}: {given!r}, {written!r}"]
