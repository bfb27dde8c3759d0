"""Drift tests side by side on one column of clean days and of the same days slightly damaged, by size of the window."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from scipy import stats
from scipy.spatial.distance import jensenshannon

from features.ids import uniform
from infra.errors import ExplainedError
from infra.lake import Lake
from infra.settings import Settings
from monitoring.tiers.tier import PAGES_A_DAY
from pipelines.markdown import table

QUESTION = "Which drift test, at what false-alarm rate?"
NUMBER = 24

COLUMN = "device"
SIZES = (500, 5_000, 50_000)  # impressions in a window
DOSES = (0.02, 0.1)  # share of the rows of the commonest value that come as the rarest
LEAST = 4  # windows of reference and of test: with fewer a size is left out
LEARNED = "spread between windows"
_SALT = 0xD71F7

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


def run(chosen: Settings) -> dict[str, Any]:
    """False alarms on the later half of the base's days, and impressions until damage of each dose is found."""
    lake = Lake.of(chosen.base())
    days = lake.days("impressions")
    rows = lake.read("impressions", ["impression_id", "event_timestamp", COLUMN]).sort_by("event_timestamp")
    values, code = np.unique(pc.fill_null(rows[COLUMN], "").to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    counts = np.bincount(code)
    common, rare = int(np.argmax(counts)), int(np.argmin(counts))
    chance = uniform(rows["impression_id"].to_numpy(), _SALT)
    half = len(code) // 2
    a_day = len(code) / len(days)
    found = []
    for n in SIZES:
        usual = tally(code[:half], n, len(values))
        later = {0.0: tally(code[half:], n, len(values))}
        if min(len(usual), len(later[0.0])) < LEAST:
            continue
        for dose in DOSES:
            moved = np.where((code == common) & (chance < dose), rare, code)
            later[dose] = tally(moved[half:], n, len(values))
        allowed = PAGES_A_DAY * n / a_day
        for name, alarms in verdicts(usual, later, allowed).items():
            rates = {dose: float(np.mean(alarm)) for dose, alarm in alarms.items()}
            found.append({
                "n": n, "test": name, "windows": len(later[0.0]), "false_alarms": int(alarms[0.0].sum()),
                "per_30_days": rates[0.0] * 30 * a_day / n,
                "until_found": {str(dose): n / rates[dose] if rates[dose] else None for dose in DOSES},
            })  # fmt: skip
    if not found:
        raise ExplainedError(f"{len(code)} impressions are fewer than {2 * LEAST} windows of {SIZES[0]}; use a larger --size")
    return {
        "column": COLUMN, "from": str(values[common]), "to": str(values[rare]), "days": len(days), "rows": len(code),
        "doses": list(DOSES), "allowed_per_30_days": 30 * PAGES_A_DAY, "tests": found,
    }  # fmt: skip


def tally(code: I64, n: int, values: int) -> F64:
    """Counts [windows, values] of consecutive windows of `n` rows; what is left over at the end is not used."""
    windows = len(code) // n
    cells = np.repeat(np.arange(windows), n) * values + code[: windows * n]
    return np.bincount(cells, minlength=windows * values).reshape(windows, values).astype(np.float64)


def verdicts(usual: F64, later: dict[float, F64], allowed: float) -> dict[str, dict[float, npt.NDArray[np.bool_]]]:
    """By test and dose, which windows alarm; `allowed` is the share of clean windows that may, for the test that has a say."""
    share, spread = usual.sum(axis=0) / usual.sum(), _spread(usual)
    limit = stats.t.isf(allowed / 2 / len(share), len(usual) - 1)

    def learned(counts: F64) -> npt.NDArray[np.bool_]:
        moved = np.abs(counts / counts.sum(axis=1, keepdims=True) - share) / spread
        return np.asarray(moved.max(axis=1) > limit)

    tests = {
        "chi-squared, p < 0.05": lambda counts: chi_squared(counts, share) < 0.05,
        "PSI > 0.2": lambda counts: psi(counts, share) > 0.2,
        "Jensen-Shannon > 0.1": lambda counts: jensen_shannon(counts, share) > 0.1,
        LEARNED: learned,
    }
    return {name: {dose: test(counts) for dose, counts in later.items()} for name, test in tests.items()}


def _spread(usual: F64) -> F64:
    """Standard deviation [values] of a new window's share, the mean's own uncertainty included."""
    shares = usual / usual.sum(axis=1, keepdims=True)
    return np.maximum(shares.std(axis=0, ddof=1) * np.sqrt(1 + 1 / len(shares)), 1e-9)


def chi_squared(counts: F64, share: F64) -> F64:
    """p [windows] of Pearson's test against known shares."""
    expected = counts.sum(axis=1, keepdims=True) * share
    return np.asarray(stats.chi2.sf(np.sum(np.square(counts - expected) / expected, axis=1), len(share) - 1))


def psi(counts: F64, share: F64) -> F64:
    """Population stability index [windows]; an empty cell counts as 1 row in 10,000, as is usual."""
    seen = np.maximum(counts / counts.sum(axis=1, keepdims=True), 1e-4)
    usual = np.maximum(share, 1e-4)
    return np.asarray(np.sum((seen - usual) * np.log(seen / usual), axis=1))


def jensen_shannon(counts: F64, share: F64) -> F64:
    """Jensen-Shannon distance [windows], base 2."""
    return np.asarray(jensenshannon(counts, np.broadcast_to(share, counts.shape), base=2, axis=1))


def markdown(result: dict[str, Any]) -> str:
    """A row a test and size."""
    rows = [
        [f"{found['n']:,}", found["test"], f"{found['false_alarms']:,} of {found['windows']:,}", f"{found['per_30_days']:,.1f}",
         *(_until(found["until_found"][str(dose)]) for dose in result["doses"])]
        for found in result["tests"]
    ]  # fmt: skip
    until = [f"impressions until {dose:.0%} is found" for dose in result["doses"]]
    return (
        f"Column `{result['column']}`, {result['rows']:,} impressions of {result['days']} days: the earlier half is the "
        f"reference, the later half is tested as it is, and with a share of `{result['from']}` come as `{result['to']}`. "
        f"`{LEARNED}` may err {result['allowed_per_30_days']:.2f} times in 30 days.\n\n"
        + table(["window", "test", "false alarms, clean windows", "in 30 days", *until], rows)
    )


def _until(found: float | None) -> str:
    return "never" if found is None else f"{found:,.0f}"
