"""Is it time to train again?  One pure question over what is known, asked by the closed loop and by the daily flow."""

from dataclasses import dataclass

from infra.clock import DAY_US


@dataclass(frozen=True, slots=True)
class DayResult:
    """How the champion did on one matured day of traffic, from the prediction log and its labels."""

    day: str
    ne: float
    calibration: float  # clicks over sum of p
    clicks: int


@dataclass(frozen=True, slots=True)
class History:
    """What is known about the champion at `now_us`."""

    now_us: int
    trained_until_us: int | None  # end of the last training day; None: there is no champion
    expected_ne: float | None  # from the champion's evaluation when it was promoted
    days: tuple[DayResult, ...] = ()  # oldest first, days after training only
    drifted: tuple[str, ...] = ()  # subjects of open drift findings that monitoring recommends retraining for


@dataclass(frozen=True, slots=True)
class RetrainPolicy:
    """When a model is too old, too wrong, or too far from its data."""

    max_age_days: float = 7.0
    ne_rise: float = 0.02  # mean NE above the expected, over `window` days
    calibration: tuple[float, float] = (0.9, 1.1)  # of all clicks in the window over all promised
    window: int = 3
    min_clicks: int = 200  # in the window; fewer say nothing
    drift_subjects: int = 1


def should_retrain(history: History, policy: RetrainPolicy) -> str | None:
    """Why to train again, or None: no model, then age, performance, drift, in this order."""
    if history.trained_until_us is None:
        return "no champion: train a first model"
    age = (history.now_us - history.trained_until_us) / DAY_US
    if age >= policy.max_age_days:
        return f"age: the champion's training data end {age:.1f} days ago, the limit is {policy.max_age_days:g}"
    recent = history.days[-policy.window :]
    clicks = sum(day.clicks for day in recent)
    if len(recent) == policy.window and clicks >= policy.min_clicks:
        ne = sum(day.ne * day.clicks for day in recent) / clicks
        if history.expected_ne is None:
            return "performance: the champion was promoted without an evaluation, so nothing says how good it should be"
        # `not <=` rather than `>`: a NaN must be a reason to look, never a reason to rest.
        if not ne - history.expected_ne <= policy.ne_rise:
            span = f"{recent[0].day} to {recent[-1].day}"
            return f"performance: NE {ne:.4f} from {span} against {history.expected_ne:.4f} expected, limit +{policy.ne_rise:g}"
        promised = sum(day.clicks / day.calibration if day.calibration > 0 else float("nan") for day in recent)
        ratio = clicks / promised
        low, high = policy.calibration
        if not low <= ratio <= high:
            return f"performance: calibration {ratio:.3f} from {recent[0].day} to {recent[-1].day}, outside {low:g} to {high:g}"
    if len(history.drifted) >= policy.drift_subjects > 0:
        return f"drift: {', '.join(sorted(history.drifted))}"
    return None
