"""The dashboard and the alert rules ask for what a scrape of a real migration gives, and for nothing else."""

import contextlib
import itertools
import json
import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from qdrant_client import QdrantClient, models

from qferry import FerryClient, FerryOptions, commands
from qferry.connection import Connection
from qferry.exporter import serving
from qferry.flows.effects import Report
from qferry.protocol.records import CONTROL_COLLECTION, Strategy

OPS = Path(__file__).parents[1] / "ops"
DASHBOARD = json.loads((OPS / "qferry-dashboard.json").read_text())
RULES = [rule for group in yaml.safe_load((OPS / "qferry-alerts.yml").read_text())["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    *((f"panel {panel['title']}", target["expr"]) for panel in PANELS for target in panel["targets"]),
    *((f"alert {rule['alert']}", rule["expr"]) for rule in RULES),
]

STRING = re.compile(r'"[^"]*"')
SELECTOR = re.compile(r"(qferry_[a-z0-9_]+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'([a-z]+)(=~|!=|=)"([^"]*)"')
GROUPED = re.compile(r"\b(?:by|on)\s*\(([^)]*)\)")
WORDS = frozenset(
    "absent sum min max by on and or unless rate deriv delta time histogram_quantile clamp_min le for".split()  # noqa: SIM905
)
POINTS = 1500
# Series by metric, each as its labels.
Scrape = dict[str, list[dict[str, str]]]


def add(scrape: Scrape, text: str) -> None:
    """Add what one answer holds."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            scrape[sample.name].append(dict(sample.labels))


@pytest.fixture(scope="module")
def scrape(qdrant: Any) -> Iterator[Scrape]:
    """Give what the exporter and an application tell, from the start of a migration to its finish."""
    found: Scrape = defaultdict(list)
    connection = Connection(url=qdrant.url, api_key=qdrant.api_key, grpc_port=qdrant.grpc_port)
    plain = QdrantClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)
    source, target = "test-ops-monitored", "test-ops-monitored-2"
    for name in (source, target):
        plain.delete_collection(name)
    plain.create_collection(source, vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    plain.upsert(source, [models.PointStruct(id=i, vector=[i + 1, 1, 2, 3]) for i in range(POINTS)], wait=True)
    options = FerryOptions(metrics=True, heartbeat_s=0.2)
    client = FerryClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False, ferry=options)

    def use() -> None:
        client.upsert(source, [models.PointStruct(id=1, vector=[4, 3, 2, 1])])
        client.count(source)

    def until_told(name: str) -> None:
        deadline = time.monotonic() + 30
        while not any(series.get("source") == source for series in found[name]):
            assert time.monotonic() < deadline, name
            use()
            look()

    with serving(connection, "127.0.0.1", 0) as metrics, contextlib.closing(client), contextlib.closing(plain):
        port = metrics.port

        def look() -> None:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
                add(found, answer.read().decode())
            add(found, generate_latest(REGISTRY).decode())

        def report(told: Report) -> None:
            metrics.report(told)
            look()

        commands.start(connection, source, target, strategy=Strategy.STREAM)
        use()
        commands.backfill(connection, source, limits={"max_points_per_s": 500}, report=report)
        commands.throttle(connection, source, limits={"max_points_per_s": 0})
        until_told("qferry_migration_application_p99_seconds")
        assert commands.verify(connection, source, report=report).passed
        commands.switch(connection, source, percent=100)
        until_told("qferry_migration_verified_timestamp_seconds")
        while client._session.route(source).read_percent < 100:  # type: ignore[union-attr]
            time.sleep(0.05)
        use()
        commands.finish(connection, source, safety_days=0)
        until_told("qferry_migration_cleanup_timestamp_seconds")
        migration = commands.find(connection, source)
    yield found
    with contextlib.closing(QdrantClient(url=qdrant.url, api_key=qdrant.api_key, check_compatibility=False)) as sweeper:
        for name in (source, target, migration.journal_collection):
            sweeper.delete_collection(name)
        sweeper.delete(CONTROL_COLLECTION, [migration.id])


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_expression_asks_for_what_there_is(where: str, expression: str, scrape: Scrape) -> None:
    """Every metric exists, with every label by which it is selected or grouped, and with every value that is named."""
    selectors = SELECTOR.findall(expression)
    assert selectors, where
    everywhere = {label for name, _ in selectors for series in scrape[name] for label in series}
    for name, matchers in selectors:
        assert scrape[name], f"{where}: nobody tells {name}"
        labels = {label for series in scrape[name] for label in series}
        for label, how, value in MATCHER.findall(matchers):
            assert label in labels, f"{where}: {name} has no label {label}"
            told = {series[label] for series in scrape[name] if label in series}
            if value != "$source":
                wanted = value.split("|") if how == "=~" else [value]
                assert told.issuperset(wanted), f"{where}: {name} never has {label}={value}"
        assert not MATCHER.sub("", matchers).strip(", "), f"{where}: {matchers}"
    for grouped in GROUPED.findall(expression):
        assert everywhere.issuperset(re.split(r"\s*,\s*", grouped.strip())), f"{where}: by {grouped}"


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_expression_is_one(where: str, expression: str) -> None:
    """Brackets close, and every word is a metric, a label, or one of PromQL's that are used here."""
    bare = STRING.sub("", expression)
    for opening, closing in ("()", "[]", "{}"):
        assert bare.count(opening) == bare.count(closing), where
    bare = re.sub(r"\[\d+m\]", "", SELECTOR.sub("", GROUPED.sub("", bare)))
    assert set(re.findall(r"[a-z_]+", bare)) <= WORDS, where


def test_legends_name_labels_that_there_are(scrape: Scrape) -> None:
    """What a panel's legend shows is a label of the series it shows."""
    for panel in PANELS:
        for target in panel["targets"]:
            labels = {label for name, _ in SELECTOR.findall(target["expr"]) for s in scrape[name] for label in s}
            assert labels.issuperset(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])), panel["title"]


def test_metric_names_follow_prometheus_conventions(scrape: Scrape) -> None:
    """Base units, and a suffix that says so; a counter ends in _total; labels are of a small fixed set."""
    ours = {name: series for name, series in scrape.items() if name.startswith("qferry_")}
    labels = {label for series in ours.values() for one in series for label in one}
    assert labels == {
        "source", "target", "strategy", "policy", "phase", "reason", "stage", "side", "routing", "outcome", "le",
    }  # fmt: skip
    for name in ours:
        assert re.fullmatch(r"qferry_(up|(client|migration|command)_[a-z0-9_]+)", name)
        assert not re.search(r"_(ms|millis|milliseconds|percent|minutes|kb|mb)(_|$)", name), name


def test_dashboard_can_be_imported() -> None:
    """Its data source and migration are variables, ids are unique, and no panel lies on another."""
    assert {v["name"]: v["type"] for v in DASHBOARD["templating"]["list"]} == {
        "datasource": "datasource",
        "source": "query",
    }
    assert "id" not in DASHBOARD
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
    for one, other in itertools.combinations((panel["gridPos"] for panel in DASHBOARD["panels"]), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)
    for panel in PANELS:
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
        assert [target["refId"] for target in panel["targets"]] == sorted({t["refId"] for t in panel["targets"]})


def test_alerts_say_what_they_mean_and_what_to_do() -> None:
    """Each is documented, and every command it names is one."""
    page = (OPS.parent / "docs" / "monitoring.md").read_text()
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names))
    for rule in RULES:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["annotations"].keys() == {"summary", "description"}
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert f"`{rule['alert']}`" in page
        for verb in re.findall(r"`qferry (\w+)", rule["annotations"]["description"]):
            assert hasattr(commands, verb), verb


def test_exporter_that_is_gone_is_alarming() -> None:
    """No sample is no zero: the rule must see that there is none."""
    (rule,) = (rule for rule in RULES if rule["alert"] == "QferryDown")
    assert {part.strip() for part in rule["expr"].split(" or ")} == {"qferry_up == 0", "absent(qferry_up)"}


def test_page_lists_every_metric(scrape: Scrape) -> None:
    """And none that does not exist."""
    page = (OPS.parent / "docs" / "monitoring.md").read_text()
    named = (name for name in scrape if name.startswith("qferry_") and not name.endswith("_created"))
    told = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
    listed = set(re.findall(r"`(qferry_[a-z0-9_]+)`", page))
    assert listed == told
