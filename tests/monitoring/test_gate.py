"""What the gate reads from a home: control totals, rebuilt rows, the kept reference."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features import snapshots
from features.catalogue import VIEWS, view
from infra import branch
from infra.home import Home
from monitoring.gate import accepted
from monitoring.gate.rebuild import compare, rebuild

ENTITIES, CONTEXT, SERVICE = ("user", "ad", "campaign", "placement"), ("device", "placement", "page_topic"), "ctr_full"


def test_training_keeps_a_reference_when_it_promotes(tiny_home: Home) -> None:
    table = accepted(tiny_home)
    assert table is not None
    assert "user_clicks_1h" in table.features
    assert np.isfinite(table.auc).any()


def test_stored_rows_are_what_raw_events_say(tiny_home: Home) -> None:
    days = snapshots.days(tiny_home, "user_recent")[5:]
    rebuilt = rebuild(tiny_home, days, True, ENTITIES)
    assert {view for view, _ in rebuilt.rows} == {view.name for view in VIEWS}
    wrong = compare(tiny_home, rebuilt, days)
    assert (wrong.findings, wrong.doubted) == ([], frozenset())


def test_a_rewritten_day_is_named_with_its_column_and_first_day(tiny_home: Home) -> None:
    work = branch.create(tiny_home, "rebuild-test")
    try:
        days = snapshots.days(work, "user_recent")
        recent = view("user_recent")
        with snapshots.manifest_path(work, recent.name, days[8]).open("rb") as file:
            manifest = pq.read_table(file)
        rows = snapshots.read(work, recent.name, days[8])
        more = pc.add(rows["user_clicks_1h"], pa.scalar(0.5, pa.float32()))
        rows = rows.set_column(rows.column_names.index("user_clicks_1h"), "user_clicks_1h", more)
        snapshots.write(work, recent, days[8], rows, manifest)
        wrong = compare(work, rebuild(tiny_home, days[5:], True, ENTITIES), days[5:])
        (found,) = wrong.findings
        assert (found.subject, found.since, found.bug_class) == ("user_clicks_1h", days[8], "point-in-time-violation")
        assert wrong.doubted == {"user_clicks_1h"}
    finally:
        branch.drop(work)
