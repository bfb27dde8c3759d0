"""The Evidently report: one self-contained page about the right days, small enough to open."""

import pytest

from infra import branch
from infra.errors import ExplainedError
from infra.home import Home
from infra.lake import Lake
from monitoring.report import write_report
from serving.champion import champion

ENTITIES, CONTEXT = ("user", "ad", "campaign", "placement"), ("device", "placement", "page_topic")
# Evidently 0.7.23 imports numpy.core, and through its server litestar's own deprecated names.
pytestmark = [
    pytest.mark.filterwarnings("ignore:numpy.core is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::litestar.exceptions.LitestarWarning"),
    pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning:litestar.*"),
]


def test_the_report_shows_the_latest_day_against_the_week_before_with_predictions(tiny_home: Home) -> None:
    work = branch.create(tiny_home, "report-test")
    try:
        path = write_report(work, ENTITIES, CONTEXT, "ctr_full", champion(work))
        days = Lake.of(work).days("impressions")
        html = path.read_text(encoding="utf-8")
        assert path == work.reports / f"drift-{days[-1]}.html"
        assert f"{days[-1]} (current) against {days[-8]} to {days[-2]} (reference)" in html
        assert "predicted_click" in html
        assert "user_category_ctr" in html
        assert path.stat().st_size < 6_000_000
        with pytest.raises(ExplainedError, match="compares a day with those before it"):
            write_report(work, ENTITIES, CONTEXT, "ctr_full", day=days[0])
    finally:
        branch.drop(work)
