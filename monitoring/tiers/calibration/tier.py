"""The calibration tier: are there as many clicks as predicted, everywhere, at every age and from everybody?

Made by `monitoring.monitor`.  What is usual is kept by its streams, what they say is read by its verdict.
"""

from collections.abc import Mapping

from monitoring.findings import Finding
from monitoring.tiers.calibration.streams import LEAST_CLICKS, LEAST_HOURS, Streams
from monitoring.tiers.calibration.tally import Tally
from monitoring.tiers.calibration.verdict import NAME, verdict
from monitoring.window import LogColumns, Window

NOTICE_GROWN, FORGET_H = 0.1, 72.0  # of the excess; hours of silence


class CalibrationTier:
    """Predict, test, then learn (`monitoring.tiers.tier.Tier`)."""

    name = NAME

    def __init__(self, columns: LogColumns) -> None:
        self._streams = Streams(columns)
        self._seen: Tally | None = None
        self._learned = True
        self._paged = False
        self._told: dict[tuple[str, str], tuple[float, float]] = {}  # excess of notices that go on, and the hour seen last
        self._ran: tuple[str, ...] = ()
        self._unable: Mapping[str, str] = {}

    def test(self, window: Window) -> list[Finding]:
        """Weigh a window against what earlier ones lead one to expect."""
        streams = self._streams
        if not self._learned:
            streams.forget()
        self._learned, self._paged, self._ran, self._unable = False, False, (), {}
        self._seen = streams.see(window)
        if self._seen is None:
            self._unable = {NAME: "no clicks and no labels"}
            return []
        if not streams.known:
            self._unable = {
                NAME: f"{streams.hours:.0f} hours with {streams.expected:.0f} expected clicks before this window; "
                f"it takes {LEAST_HOURS:.0f} hours and {LEAST_CLICKS:.0f} clicks to know the champion's usual level"
            }
            streams.restart()
            return []
        judged = verdict(streams, self._seen)
        self._ran, self._unable = judged.ran, judged.unable
        self._paged = any(finding.severity == "page" for finding in judged.findings)
        return self._news(judged.findings)

    def learn(self) -> None:
        """Take the window tested last into levels, spreads and curves."""
        if self._seen is None:
            return
        self._learned = True
        if self._paged:  # it is learned all the same: a reference, or the new normal
            self._streams.learn_anew()
        self._streams.learn(self._seen)

    def unable(self) -> Mapping[str, str]:
        """What could not be judged in the window tested last, and why."""
        return self._unable

    def ran(self) -> tuple[str, ...]:
        """What was judged in it."""
        return self._ran

    def _news(self, findings: list[Finding]) -> list[Finding]:
        """Pages, and notices once each: again where one grew or comes back after a while."""
        now = self._streams.now
        self._told = {key: told for key, told in self._told.items() if now - told[1] < FORGET_H}
        news = []
        for finding in findings:
            key = finding.symptom, finding.subject
            excess, _ = self._told.get(key, (-1.0, 0.0))
            fresh = finding.severity == "page" or finding.excess > excess + NOTICE_GROWN
            self._told[key] = finding.excess if fresh else excess, now
            if fresh:
                news.append(finding)
        return news
