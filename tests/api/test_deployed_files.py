"""What is in deploy/ and in the docs of metrics: every query there can be answered, every metric is documented."""

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
from tests.promql import PromqlError, check, series_of

from quern.obs.metrics import Metrics
from quern.types import KvUsage, StepFacts

from .conftest import Quern

ROOT = Path(__file__).parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
DASHBOARD = json.loads((ROOT / "deploy/grafana/quern.json").read_text(encoding="utf-8"))
ALERTS: Any = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]


@pytest.fixture
async def shown(quern: Quern) -> list[Metric]:
    """Everything that is shown after a short run; what only the engine `cpu` tells is told in its place."""
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3, "no_such_field": 1}
    assert (await quern.client.post("/v1/chat/completions", json=body)).status_code == 200
    await quern.client.get("/v1/conversations/no-such")
    metrics = quern.application.metrics
    (now,) = quern.application.activity.snapshots()
    snapshot = replace(now, kv=KvUsage(used=1, cached=2, free=3))
    metrics.step(StepFacts(rows=2, tokens=33, preempted=1, seconds=0.01))
    text, _ = await asyncio.to_thread(metrics.expose, [snapshot], "")
    return list(families(text.decode()))


def expressions() -> list[tuple[str, str, str]]:
    """Every query of the dashboard and of the alerts: where it is, and the text that is written with its labels."""
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    queries = [
        (f"{panel['title']} {target['refId']}", target["expr"], target.get("legendFormat", ""))
        for panel in panels
        for target in panel["targets"]
    ]
    return [*queries, *((rule["alert"], rule["expr"], " ".join(rule["annotations"].values())) for rule in RULES)]


async def test_every_query_of_dashboard_and_alerts_asks_for_what_is_there(shown: list[Metric]) -> None:
    series = series_of(shown)
    for where, expression, text in expressions():
        try:
            labels = check(expression, series)
        except PromqlError as error:
            pytest.fail(f"{where}: {error}, in {expression}")
        for label in re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", text):
            assert label in labels, f"{where} is written with {label}, which its query does not give"


async def test_every_variable_of_the_dashboard_is_a_label_of_a_metric(shown: list[Metric]) -> None:
    series = series_of(shown)
    variables = [one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"]
    for one in variables:
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", one["query"]["query"])
        assert found is not None
        assert found[2] in check(found[1], series)


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("quern_no_such", "no metric"),
        ('quern_engine_state{status="ready"}', "no label status"),
        ("sum by (key) (quern_num_requests_waiting)", "by key"),
        ("sum(quern_num_requests_waiting) by (key)", "by key"),
        ("sum(quern_generation_tokens_total)", "counter without"),
        ("quern_inter_token_latency_seconds_count > 0", "counter without"),
        ("rate(quern_num_requests_running[5m])", "no counter"),
        ("rate(quern_generation_tokens_total)", "no range"),
        ("sum(quern_generation_tokens_total[5m])", "no value"),
        ("rate(sum(quern_generation_tokens_total)[5m])", "counter without"),
        ("histogram_quantile(0.9, sum(rate(quern_inter_token_latency_seconds_bucket[5m])))", "not le"),
        ("histogram_quantile(0.9, sum by (le) (rate(quern_inter_token_latency_seconds_count[5m])))", "by le"),
        ("histogram_quantile(0.9, rate(quern_generation_tokens_total[5m]))", "no buckets"),
        ("histogram_quantile(90, rate(quern_inter_token_latency_seconds_bucket[5m]))", "quantile 90"),
        ("sum by (le) (rate(quern_inter_token_latency_seconds[5m]))", "no metric"),
        ("sum(up) / sum by (instance) (up)", "meets nothing"),
        ("sum(up", "the end"),
        ("sum(up))", "too much"),
        ("up[5]", "can't be read"),
    ],
)
async def test_what_is_wrong_with_a_query_is_noticed(shown: list[Metric], expression: str, wrong: str) -> None:
    with pytest.raises(PromqlError, match=wrong):
        check(expression, series_of(shown))


async def test_every_metric_of_ours_is_on_the_dashboard_or_tells_facts(shown: list[Metric]) -> None:
    asked = " ".join(expression for _, expression, _ in expressions())
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
