"""What is handed out for Prometheus and Grafana asks for what there is, and Prometheus' own tool has no complaint."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import REPOSITORY

from runner_supervisor.front.metrics import SERIES
from runner_supervisor.front.metrics.series import Kind

PROMETHEUS = REPOSITORY / "deploy" / "prometheus"
DASHBOARD = REPOSITORY / "deploy" / "grafana" / "runner-supervisor.json"
OURS = re.compile(r"\brunner_\w+")
ENGINES = re.compile(r"\bllamacpp:\w+")
OF_A_HISTOGRAM = ("_bucket", "_sum", "_count")
OF_THE_ENGINE = frozenset({"llamacpp:n_busy_slots_per_decode"})
"""What of llama-server's own is asked for (tools/server/server-task.cpp, `to_metrics`)."""


def exported() -> set[str]:
    return {each.name + end for each in SERIES for end in (OF_A_HISTOGRAM if each.kind is Kind.HISTOGRAM else ("",))}


def dashboard_queries() -> list[str]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", ())]


def rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]:
        yield from group["rules"]


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: it comes with Prometheus")
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False)


def test_the_dashboard_and_the_alerts_ask_for_series_that_there_are() -> None:
    asked = "\n".join([*dashboard_queries(), *(rule["expr"] for rule in rules())])
    assert set(OURS.findall(asked)) <= exported()
    assert set(ENGINES.findall(asked)) == OF_THE_ENGINE


def test_every_query_of_the_dashboard_is_one(short_dir: Path) -> None:
    """Each becomes a rule, as promtool reads those."""
    named = [
        {"record": f"q{number}", "expr": query.replace("$__rate_interval", "5m").replace("$instance", ".*")}
        for number, query in enumerate(dashboard_queries())
    ]
    file = short_dir / "queries.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": named}]}))
    done = promtool("check", "rules", file)
    assert done.returncode == 0, done.stderr
    assert f"{len(named)} rules found" in done.stdout


def test_no_two_panels_lie_upon_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_each_alert_fires_for_its_fault_and_none_on_a_day_like_any_other() -> None:
    done = promtool("test", "rules", PROMETHEUS / "rules_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [
        case
        for test in yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    alerts = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == alerts
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == alerts


def test_the_scrape_configuration_is_one(short_dir: Path) -> None:
    for file in PROMETHEUS.iterdir():
        shutil.copy(file, short_dir)
    (short_dir / "runner-supervisor.token").write_text("secret")
    done = promtool("check", "config", short_dir / "prometheus.yml")
    assert done.returncode == 0, done.stderr
