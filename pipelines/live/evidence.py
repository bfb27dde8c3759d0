"""Pictures for an incident: what the guilty column looked like before and since, or a figure by the hour around the onset.

Numbers for the page to draw, made from the same windows as everything else; nothing here knows what was injected.
"""

from collections import deque
from typing import Any

import pyarrow as pa

from infra.clock import HOUR_US
from monitoring.window import Window
from pipelines.live.measures import Measures

BEFORE = 24  # hours shown before the onset
PICTURES = 3
KEPT = 48  # hours of logs kept for a report

# What each symptom is seen in, where it is not in the subject's own distribution: a figure of the hours.
_SERIES = {
    "calibration-low": "ratio", "calibration-high": "ratio", "slow-calibration": "ratio", "young-clicks-missing": "ratio",
    "discrimination-down": "ne", "slice-calibration": "ratio", "randomised-slice": "ratio", "click-concentration": "clicks",
    "duplicate-ids": "duplicates", "contract": "refused", "clock-skew": "refused", "out-of-range": "refused",
    "volume-down": "landed", "volume-up": "landed", "hours-missing": "landed", "unreconciled": "joined",
    "too-old": "age", "unknown-version": "models", "not-sticky": "arms",
}  # fmt: skip


class Evidence:
    """Remembers what pictures are made of."""

    def __init__(self, measures: Measures) -> None:
        self._measures = measures
        self.logs: deque[tuple[int, pa.Table]] = deque(maxlen=KEPT)  # hour's start, log

    @property
    def reference(self) -> pa.Table:
        """Some usual rows, to draw reports against."""
        return self._measures.usual_rows

    def add(self, window: Window) -> None:
        """Take in an hour."""
        self.logs.append((window.start_us, window.log))

    def pictures(self, incident: dict[str, Any]) -> list[dict[str, Any]]:
        """Up to `PICTURES` pictures of an incident's findings, those of its best hypothesis' subject first."""
        onset_us = int(incident.get("onset_us") or incident["opened_us"])
        since_us = min(onset_us, incident["opened_us"] - HOUR_US) // HOUR_US * HOUR_US
        findings = sorted(incident["evidence"], key=lambda f: (f["subject"] != incident["subject"], -f["excess"]))
        found: dict[str, dict[str, Any]] = {}
        for finding in findings:
            for picture in self._of(finding, since_us, incident["updated_us"]):
                found.setdefault(picture["key"], picture)
        return list(found.values())[:PICTURES]

    def _of(self, finding: dict[str, Any], since_us: int, until_us: int) -> list[dict[str, Any]]:
        subject, symptom = finding["subject"], finding["symptom"]
        pictures = []
        if finding["tier"] in ("distribution", "replay", ""):
            shape = self._measures.shapes.compare(subject, since_us, until_us)
            if shape is not None and shape["rows"]:
                pictures.append({"key": f"shape {subject}", "kind": "shape", "subject": subject, **shape})
        if symptom.startswith("rescore") or symptom == "residual-moved":
            shape = self._measures.shapes.compare("prediction", since_us, until_us)
            if shape is not None:
                pictures.append({"key": "shape prediction", "kind": "shape", "subject": "prediction", **shape})
        series = "arms" if finding["tier"] == "experiment" else _SERIES.get(symptom)
        if series:
            pictures.append(self._series(series, since_us))
        return pictures

    def _series(self, name: str, since_us: int) -> dict[str, Any]:
        """A figure by the hour, from a day before the onset on."""
        hours = [h for h in self._measures.hours if h["start_us"] >= since_us - BEFORE * HOUR_US]
        picture: dict[str, Any] = {"key": f"series {name}", "kind": "series", "series": name, "onset_us": since_us}
        at = [h["start_us"] for h in hours]
        lines: dict[str, list[Any]]
        if name == "ratio":
            lines = {"clicks over expected clicks": [h["ratio"] for h in hours]}
            usual = self._measures.usual_ratio
            picture["band"] = [[usual - (h["band"] or 0), usual + (h["band"] or 0)] for h in hours]
        elif name == "joined":
            lines = {"clicks accepted": [h["accepted_clicks"] for h in hours], "clicks joined": [h["clicks"] for h in hours]}
        elif name == "age":
            views = sorted({view for h in hours for view in h["ages"]})
            lines = {view: [h["ages"].get(view) for h in hours] for view in views}
        elif name in ("arms", "models"):
            kinds = sorted({kind for h in hours for kind in h[name]})
            lines = {kind: [h[name].get(kind, 0.0) for h in hours] for kind in kinds}
        else:
            lines = {name: [h[name] for h in hours]}
        return {**picture, "at_us": at, "lines": lines}
