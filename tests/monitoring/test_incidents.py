"""The desk: one incident an episode, a second only for another fault, silence resolves, people's words count."""

import pyarrow as pa
from made_up_findings import found

from infra.clock import DAY_US, HOUR_US
from monitoring.classes import CLASSES
from monitoring.findings import Finding
from monitoring.incidents import CLEAN, NORMAL_AFTER_US, Desk, Incident
from monitoring.monitor import Monitor
from monitoring.window import LogColumns, Window

NULLS = found("nulls-up", "price", 3.0, guess="null-spike")
LOW = found("calibration-low", "clicks", 2.0, ratio=0.8)
TWICE = found("duplicate-ids", "impressions", 5.0, guess="duplicated-events")


def hour(number: int, rows: int = 1) -> Window:
    log = pa.table({"id": list(range(rows)), "time": [number * HOUR_US] * rows, "p": [0.1] * rows})
    return Window(number * HOUR_US, (number + 1) * HOUR_US, log)


def told(desk: Desk, *episode: list[Finding], start: int = 0) -> list[Incident]:
    return [incident for i, findings in enumerate(episode) for incident in desk.update(hour(start + i), findings)]


def test_a_page_opens_and_what_follows_joins() -> None:
    desk = Desk()
    (incident,) = told(desk, [NULLS], [NULLS, LOW], [LOW])
    assert [(i.hypotheses[0].bug_class, i.hypotheses[0].subject) for i in desk.incidents] == [("null-spike", "price")]
    assert {f.symptom for f in incident.findings} == {"nulls-up", "calibration-low"}
    assert (incident.opened_us, incident.updated_us) == (HOUR_US, 3 * HOUR_US)


def test_a_page_that_lasts_for_days_is_kept_once() -> None:
    desk = Desk()
    told(desk, *([found("nulls-up", "price", 1.0 + i % 7, hour=i, guess="null-spike")] for i in range(100)))
    (incident,) = desk.incidents
    assert len(incident.findings) == 1
    assert (incident.findings[0].excess, incident.onset_us) == (7.0, 0)


def test_a_notice_alone_opens_nothing_and_joins_what_opens_soon_after() -> None:
    desk = Desk()
    zeros = found("zeros-up", "price", 0.7)
    assert told(desk, [zeros], [zeros]) == []
    (incident,) = told(desk, [found("nulls-down", "price", 2.0, guess="imputation-difference")], start=2)
    assert "zeros-up" in {f.symptom for f in incident.findings}


def test_a_notice_that_another_tier_bears_out_opens_one() -> None:
    moved, mismatch = found("shares-moved", "device", 0.8), found("permuted", "device", 0.7)
    assert told(Desk(), [moved], [found("permuted", "country", 0.7)]) == []
    (incident,) = told(Desk(), [moved], [], [mismatch])
    assert incident.hypotheses[0].subject == "device"
    assert told(Desk(), [moved], *[[]] * 30, [mismatch]) == []


def test_a_fault_of_another_kind_opens_a_second_one_and_a_consequence_does_not() -> None:
    desk = Desk()
    told(desk, [NULLS], [NULLS, found("shares-moved", "prediction", 2.0)], [NULLS, TWICE])
    assert [i.hypotheses[0].bug_class for i in desk.open] == ["null-spike", "duplicated-events"]
    both = Desk()
    told(both, [NULLS, TWICE])
    assert {i.hypotheses[0].bug_class for i in both.open} == {"null-spike", "duplicated-events"}


def test_clean_windows_resolve_and_hours_without_traffic_do_not_count() -> None:
    desk = Desk()
    told(desk, [NULLS])
    for i in range(10):
        desk.update(hour(1 + i, rows=0), [])
    assert [i.state for i in desk.incidents] == ["new"]
    told(desk, *[[]] * (CLEAN - 1), [NULLS], *[[]] * (CLEAN - 1), start=11)
    assert [i.state for i in desk.incidents] == ["new"]
    told(desk, [], start=20)
    assert [i.state for i in desk.incidents] == ["resolved"]
    assert len(told(desk, [NULLS], start=21)) == 1


def test_what_took_a_day_to_be_seen_is_not_gone_after_three_hours() -> None:
    desk = Desk()
    told(desk, [found("shares-moved", "device", 2.0, scale="day")], *[[]] * 20)
    assert desk.open
    told(desk, *[[]] * 60, start=21)
    assert not desk.open


def test_people_can_say_that_it_is_normal_or_nothing() -> None:
    desk = Desk()
    told(desk, [NULLS])
    assert not desk.may_learn
    assert desk.acknowledge(1).state == "acknowledged"
    assert not desk.may_learn
    desk.acknowledge(1, as_new_normal=True)
    assert desk.may_learn
    other = Desk()
    told(other, [NULLS])
    other.false_alarm(1)
    assert other.may_learn
    assert told(other, [NULLS], [NULLS], start=1) == []  # the same again is no news
    assert told(other, *[[]] * CLEAN, [NULLS], start=3)  # once it was silent, it is


def test_what_nobody_heals_for_a_week_is_learned() -> None:
    desk = Desk()
    week = NORMAL_AFTER_US // HOUR_US
    told(desk, *[[NULLS]] * week)
    assert not desk.may_learn
    told(desk, [NULLS], start=week)
    assert desk.may_learn
    assert desk.open[0].as_json()["new_normal"]
    told(desk, [NULLS], [TWICE], start=week + 1)
    assert not desk.may_learn  # another one is news


def test_the_monitor_learns_unless_an_incident_is_open() -> None:
    class Loud:
        name = "exact"
        learned = 0

        def test(self, window: Window) -> list[Finding]:
            return [NULLS] if window.start_us < DAY_US // 8 else []

        def learn(self) -> None:
            self.learned += 1

        def unable(self) -> dict[str, str]:
            return {}

        def ran(self) -> tuple[str, ...]:
            return ()

    tier = Loud()
    monitor = Monitor(LogColumns((), ()), [tier])
    for i in range(6):
        monitor.observe(hour(i))
    assert tier.learned == 1  # hours 3 and 4 are clean, the incident resolves with hour 5
    assert monitor.copy().desk.incidents is not monitor.desk.incidents


def test_as_json_has_what_a_reader_needs() -> None:
    desk = Desk()
    (incident,) = told(desk, [NULLS, LOW])
    data = incident.as_json()
    assert (data["class"], data["subject"], data["severity"], data["state"]) == ("null-spike", "price", "page", "new")
    assert data["class"] in {known.slug for known in CLASSES}
    assert data["runbook"]["first"]
    assert data["runbook"]["heal"]
    assert data["evidence"][0]["symptom"] == "nulls-up"
    assert data["hypotheses"][0]["because"]


def test_what_took_hours_to_gather_is_gone_after_as_many_silent_ones() -> None:
    soon, slow, slower = Desk(), Desk(), Desk()
    for desk, hours in ((soon, 2.0), (slow, 7.0), (slower, 200.0)):
        told(desk, [found("calibration-low", "clicks", 2.0, ratio=0.8, hours=hours)])
    silent = {}
    for i in range(30):
        for desk in (soon, slow, slower):
            desk.update(hour(1 + i), [])
            if not desk.open:
                silent.setdefault(id(desk), i + 1)
    assert [silent[id(desk)] for desk in (soon, slow, slower)] == [CLEAN, 7, 24]
