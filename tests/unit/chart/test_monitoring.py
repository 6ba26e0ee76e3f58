"""Scraping, alerts, dashboard and traces: off unless asked for, and every expression asks for metrics that exist."""

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import promql_parser
import pytest
import yaml

from tests.unit.chart.rendering import CHART, NAMESPACE, ROOT, Object, env, one, render, select
from windlass_operator.config import Config
from windlass_operator.metrics import describe

ON: Object = {
    "metrics": {
        "tasks": 50,
        "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
        "dashboard": {"enabled": True},
    },
    "traces": {"endpoint": "http://collector.observability:4318", "ratio": 0.1},
}
RULES: Final[dict[str, Any]] = yaml.safe_load((CHART / "files/rules.yaml").read_text())
ALERTS: Final = [rule for group in RULES["groups"] for rule in group["rules"]]
DASHBOARD: Final[dict[str, Any]] = json.loads((CHART / "files/dashboard.json").read_text())
PANELS: Final = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
HISTOGRAM_PARTS: Final = ("_bucket", "_count", "_sum")


def series() -> dict[str, set[str]]:
    """Return every series that is served, with its labels."""
    found: dict[str, set[str]] = {}
    for metric in describe():
        if metric.kind == "histogram":
            found |= {metric.name + part: {*metric.labels} for part in HISTOGRAM_PARTS}
            found[f"{metric.name}_bucket"].add("le")
        else:
            found[metric.name] = {*metric.labels}
    return found


def expressions() -> list[Any]:
    rules = [pytest.param(alert["expr"], id=alert["alert"]) for alert in ALERTS]
    targets = [
        pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
        for panel in PANELS
        for target in panel["targets"]
    ]
    return rules + targets


def parse(expression: str) -> Any:
    """Parse what Grafana makes of an expression. A wrong type, such as a rate of no range, does not parse."""
    text = expression.replace("$__rate_interval", "5m").replace("$namespace", ".*").replace("$task", ".*")
    return promql_parser.parse(text)


def nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param", "args"):
        child = getattr(node, name, None)
        for item in child if isinstance(child, list) else [child]:
            if item is not None:
                yield from nodes(item)


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_series_and_labels_that_exist(expression: str) -> None:
    known = series()
    found = list(nodes(parse(expression)))
    selectors = [node for node in found if isinstance(node, promql_parser.VectorSelector)]
    assert selectors
    available: set[str] = set()
    for selector in selectors:
        assert selector.name in known, f"nobody serves {selector.name}"
        assert {matcher.name for matcher in selector.matchers.matchers} <= known[selector.name], selector.name
        available |= known[selector.name]
    for node in found:
        if isinstance(node, promql_parser.AggregateExpr) and node.modifier is not None:
            assert {*node.modifier.labels} <= available, expression


@pytest.mark.parametrize("expression", expressions())
def test_a_counter_is_only_looked_at_as_a_rate_and_a_gauge_never(expression: str) -> None:
    for node in nodes(parse(expression)):
        if isinstance(node, promql_parser.MatrixSelector):
            name = node.vector_selector.name or ""
            assert name.endswith(("_total", *HISTOGRAM_PARTS)), f"a rate of the gauge {name}"
        if isinstance(node, promql_parser.Call) and node.func.name not in ("rate", "increase"):
            for argument in node.args:
                if isinstance(argument, promql_parser.VectorSelector):
                    assert not (argument.name or "").endswith("_total"), argument.name


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_says_what_is_wrong_and_the_documentation_what_to_do(alert: Object) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    assert alert["annotations"].keys() == {"summary", "description"}
    root = parse(alert["expr"])
    kept = [node.modifier for node in nodes(root) if isinstance(node, promql_parser.AggregateExpr)]
    labels = {label for modifier in kept if modifier is not None for label in modifier.labels}
    used = set(re.findall(r"\$labels\.(\w+)", " ".join(alert["annotations"].values())))
    assert used <= labels, "a label that the expression does not keep"
    assert f"| `{alert['alert']}` |" in (ROOT / "docs/how-to/observe.md").read_text()


def test_every_metric_of_the_documentation_exists() -> None:
    known = series().keys() | {metric.name for metric in describe()}
    for page in ("docs/how-to/observe.md", "docs/reference/metrics.md", "charts/windlass/README.md"):
        assert set(re.findall(r"\bwindlass_(?!operator/)[a-z_]+\b", (ROOT / page).read_text())) <= known, page


def test_the_dashboards_panels_have_ids_of_their_own_and_lie_beside_each_other() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not taken & cells, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_nothing_of_it_is_there_unless_asked_for() -> None:
    objects = render()
    assert not [o for o in objects if o["apiVersion"].startswith("monitoring.coreos.com")]
    assert not select(objects, "Service", "windlass-operator")
    assert not select(objects, "ConfigMap", "windlass-dashboard")
    for name in ("operator", "api"):
        (container,) = one(objects, "Deployment", f"windlass-{name}")["spec"]["template"]["spec"]["containers"]
        assert not [variable for variable in env(container) if variable.startswith("OTEL_")]


def test_the_service_monitor_finds_the_metrics_of_both_processes() -> None:
    objects = render(ON)
    monitor = one(objects, "ServiceMonitor", "windlass-metrics")
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": [NAMESPACE]}
    (endpoint,) = monitor["spec"]["endpoints"]
    assert (endpoint["interval"], endpoint["path"]) == ("15s", "/metrics")
    assert endpoint["honorLabels"] is True, "the label namespace is the task's"
    wanted = monitor["spec"]["selector"]["matchLabels"]
    (components,) = monitor["spec"]["selector"]["matchExpressions"]
    found = {}
    for service in select(objects, "Service"):
        labels = service["metadata"]["labels"]
        if wanted.items() <= labels.items() and labels.get(components["key"]) in components["values"]:
            (port,) = [p for p in service["spec"]["ports"] if p["name"] == endpoint["port"]]
            found[service["metadata"]["name"]] = port["port"]
    assert found == {"windlass-api": 8080, "windlass-operator": 8081}
    for name, port in found.items():
        (container,) = one(objects, "Deployment", name)["spec"]["template"]["spec"]["containers"]
        assert [p["containerPort"] for p in container["ports"] if p["name"] == "http"] == [port]


def test_rules_and_dashboard_come_as_they_are_written() -> None:
    objects = render(ON)
    rule = one(objects, "PrometheusRule", "windlass-alerts")
    assert rule["spec"] == RULES
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    dashboard = one(objects, "ConfigMap", "windlass-dashboard")
    assert json.loads(dashboard["data"]["windlass.json"]) == DASHBOARD
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"


@pytest.mark.parametrize("component", ["operator", "api"])
def test_the_processes_read_where_to_send_traces(component: str) -> None:
    (container,) = one(render(ON), "Deployment", f"windlass-{component}")["spec"]["template"]["spec"]["containers"]
    set_there = {name: entry["value"] for name, entry in env(container).items() if "value" in entry}
    config = Config.from_env({**set_there, "WINDLASS_POSTGRES_URI": "postgresql://x"})
    assert (config.traces, config.trace_ratio, config.metrics_tasks) == (True, 0.1, 50)
    assert set_there["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://collector.observability:4318"
