"""A real Prometheus scrapes a real server: every query of rules, alerts and dashboard finds what it asks for."""

from collections.abc import Iterator

import pytest
import yaml
from real_prometheus import RULES, RealPrometheus
from real_server import GOOD, RealServer
from test_dashboard import expressions
from traffic import CONTEXT, UNREADABLE, USERS, ask_for_good

from serving.exposition import FAMILIES


@pytest.fixture(scope="module")
def prometheus(watched: RealServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealPrometheus]:
    """After two scrapes with traffic between them, and the rules' evaluation."""
    server = RealPrometheus(tmp_path_factory.mktemp("prometheus"), watched.port)
    try:
        server.wait_for("clickproof_ready == 1")
        ask_for_good(watched, USERS)
        assert watched.rank(GOOD | {"user_id": UNREADABLE, "context": CONTEXT}).status == 200
        assert watched.rank(GOOD | {"slots": 0}).status == 422
        server.wait_for("rate(clickproof_degraded_total{step='priors'}[1m]) > 0")
        server.wait_for_rules()
        yield server
    finally:
        server.stop()


def rules(kind: str) -> list[str]:
    """Expressions of all alerts ("alert") or recording rules ("record")."""
    files = [yaml.safe_load((RULES / name).read_text()) for name in ("recording.yml", "alerts.yml")]
    return [rule["expr"] for file in files for group in file["groups"] for rule in group["rules"] if kind in rule]


def test_what_recording_rules_and_the_dashboard_ask_for_is_there(prometheus: RealPrometheus) -> None:
    wanted = [*rules("record"), *expressions()]
    assert len(wanted) > 60
    assert [said for one in wanted for said in prometheus.wrong_with(one, value=True)] == []


def test_what_alerts_ask_for_is_there(prometheus: RealPrometheus) -> None:
    assert [said for one in rules("alert") for said in prometheus.wrong_with(one, value=False)] == []


def test_every_rule_could_be_evaluated(prometheus: RealPrometheus) -> None:
    found = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(found) == len(rules("record")) + len(rules("alert"))
    assert [rule["name"] for rule in found if rule["health"] != "ok"] == []


@pytest.mark.parametrize(
    "expression",
    [
        "rate(clickproof_requestz_total[5m])",
        'clickproof_requests_total{route="rnk"}',
        "sum by (jobb) (clickproof_requests_total)",
        "sum(clickproof_ready) / sum(clickproof_steady)",
    ],
)
def test_a_wrong_name_or_label_is_found(prometheus: RealPrometheus, expression: str) -> None:
    assert list(prometheus.wrong_with(expression, value=False))


def test_a_ratio_of_nothing_is_found(prometheus: RealPrometheus) -> None:
    assert list(prometheus.wrong_with("clickproof_ready - clickproof_ready", value=True)) == []
    assert list(prometheus.wrong_with("(clickproof_ready - 1) / (clickproof_ready - 1)", value=True))


def test_what_is_exported_is_what_the_table_says(prometheus: RealPrometheus) -> None:
    kept = {name: said[0] for name, said in prometheus.ask("metadata").items() if not name.startswith("prometheus_")}
    table = {family.name: family for family in FAMILIES}
    assert set(kept) == set(table)
    for name, said in kept.items():
        assert (said["type"], said["help"]) == (table[name].kind, table[name].said)
        series = prometheus.series(f"{name}_bucket" if table[name].kind == "histogram" else name)
        labels = {label for one in series for label in one["metric"]} - {"__name__", "job", "instance", "le"}
        assert labels == set(table[name].labels), name


@pytest.mark.parametrize(
    "expression",
    [
        'clickproof_degraded_total{step="priors"} >= 2',
        'clickproof_store_failures_total{error="ValueError"} >= 2',
        'clickproof_clicks_total{outcome="duplicate"} >= 40',
        'clickproof_requests_total{route="rank",status="422"} >= 3',
        'clickproof_requests_total{route="rank",status="503"} >= 1',
        'clickproof_log_write_failures_total{log="predictions"} >= 1',
        "clickproof_feature_age_seconds < clickproof_feature_max_age_seconds",
        'clickproof_log_records_total{log="predictions"} == on () sum(clickproof_answers_total)',
        "clickproof_model_workers == on () group_left sum(clickproof_workers)",
        "process_resident_memory_bytes > 1e8",
    ],
)
def test_what_happened_is_told(prometheus: RealPrometheus, expression: str) -> None:
    assert prometheus.series(expression)
