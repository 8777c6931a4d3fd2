"""What is in deploy/ and in the docs of metrics: every name there is a metric's, every metric is documented."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families as families

from quern.obs.metrics import Metrics
from quern.types import KvUsage, StepFacts

from .conftest import Quern

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "deploy/grafana/quern.json").read_text(encoding="utf-8"))
ALERTS: Any = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
NAME = re.compile(r"\b(?:quern|process|python)_\w+")
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


@pytest.fixture
async def shown(quern: Quern) -> list[Metric]:
    """Everything that is shown after a short run; what only the engine `cpu` tells is told in its place."""
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "no_such_field": 1}
    assert (await quern.client.post("/v1/chat/completions", json=body)).status_code == 200
    await quern.client.get("/v1/conversations/no-such")
    metrics = quern.application.metrics
    snapshot = replace(quern.application.activity.snapshot(), kv=KvUsage(used=1, cached=2, free=3))
    metrics.step(StepFacts(rows=2, tokens=33, preempted=1, seconds=0.01))
    text, _ = await asyncio.to_thread(metrics.expose, snapshot, "")
    return list(families(text.decode()))


def samples_of(shown: list[Metric]) -> set[str]:
    return {sample.name for family in shown for sample in family.samples}


def expressions() -> dict[str, str]:
    """Every query of the dashboard and of the alerts, by where it is."""
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    queries = {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels for target in panel["targets"]}
    variables = {f"${one['name']}": str(one["query"]) for one in DASHBOARD["templating"]["list"]}
    return {**queries, **variables, **{rule["alert"]: rule["expr"] for rule in RULES}}


async def test_every_metric_that_dashboard_and_alerts_ask_for_exists(shown: list[Metric]) -> None:
    known = samples_of(shown)
    for where, expression in expressions().items():
        for name in NAME.findall(expression):
            assert name in known, f"{where} asks for {name}"


async def test_every_label_that_dashboard_and_alerts_ask_for_exists(shown: list[Metric]) -> None:
    labels = {sample.name: set[str]() for family in shown for sample in family.samples}
    for family in shown:
        for sample in family.samples:
            labels[sample.name] |= set(sample.labels)
    of_prometheus = {"job", "instance"}
    for where, expression in expressions().items():
        for name, selector in re.findall(r"\b((?:quern|process)_\w+)\{([^}]*)\}", expression):
            for label in re.findall(r"(\w+)\s*[=!]", selector):
                assert label in labels[name] | of_prometheus, f"{where} asks for the label {label} of {name}"
        names = NAME.findall(expression)
        for by in re.findall(r"\bby \(([^)]*)\)", expression):
            for label in by.split(", "):
                assert any(label in labels[name] | of_prometheus for name in names), f"{where}: {label}"


async def test_every_metric_of_ours_is_on_the_dashboard_or_tells_facts(shown: list[Metric]) -> None:
    asked = " ".join(expressions().values())
    facts = {"quern_model_info", "quern_build_info", "quern_request_time_per_output_token_seconds"}
    for family in shown:
        if family.name.startswith("quern_") and family.name not in facts:
            assert family.name in asked, f"nobody looks at {family.name}"


async def test_the_operations_page_has_every_metric_with_its_labels_and_no_other(shown: list[Metric]) -> None:
    table = OPERATIONS.partition("## Metrics\n")[2].partition("\n## ")[0]
    rows = {row[1]: row for row in re.findall(r"^(\| `(quern_\w+)` \| (\w+) \| ([^|]*)\|)", table, re.MULTILINE)}
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for _, name, kind, labels in rows.values()}
    found: dict[str, tuple[str, set[str]]] = {}
    for family in shown:
        if family.name.startswith("quern_"):
            kind = "info" if family.name.endswith("_info") else family.type
            name = f"{family.name}_total" if kind == "counter" else family.name
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            found[name] = (kind, labels)
    assert documented == found


def test_every_alert_says_what_happened_and_what_it_means() -> None:
    assert len({rule["alert"] for rule in RULES}) == len(RULES) > 5
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning"}
        for text in (rule["annotations"]["summary"], rule["annotations"]["description"]):
            assert text.endswith("."), rule["alert"]
        assert rule["expr"].count("(") == rule["expr"].count(")")


def test_the_scrape_example_has_the_alerts_and_the_job_that_they_ask_for() -> None:
    example: Any = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8"))
    assert example["rule_files"] == ["alerts.yml"]
    [job] = example["scrape_configs"]
    assert f'job="{job["job_name"]}"' in " ".join(rule["expr"] for rule in RULES)


def test_panels_of_the_dashboard_have_ids_of_their_own_and_lie_beside_each_other() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_buckets_of_all_histograms_grow() -> None:
    for family in Metrics().registry.collect():
        if family.type == "histogram":
            bounds = [float(one.labels["le"]) for one in family.samples if "le" in one.labels]
            assert bounds == sorted(set(bounds)), family.name
