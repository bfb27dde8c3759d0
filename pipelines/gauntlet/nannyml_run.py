"""NannyML's defaults on the days that `peers.py` wrote: run by the Python of an environment that has NannyML, not by ours.

nannyml_run.py FOLDER CATEGORICAL-AS-JSON: prints one line of JSON, {"univariate": [[columns], ...], "cbpe": [bool, ...],
"realised": [...]}, by case.
"""

import json
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore")

import nannyml  # noqa: E402 - it warns while it is imported, so the filter comes first
import pandas as pd  # noqa: E402 - as above


def main(folder: Path, categorical: list[str]) -> dict[str, list[object]]:
    """Fit each calculator on the reference, ask it about each case."""
    reference = pd.read_parquet(folder / "reference.parquet")
    names = [name for name in reference.columns if name not in ("time", "label")]
    drift = nannyml.UnivariateDriftCalculator(
        column_names=names, treat_as_categorical=categorical, timestamp_column_name="time", chunk_period="D"
    ).fit(reference)
    asked = {"y_pred_proba": "p", "y_true": "label", "timestamp_column_name": "time", "chunk_period": "D"}
    kind = {"metrics": ["roc_auc"], "problem_type": "classification_binary"}
    estimate = nannyml.CBPE(**asked, **kind).fit(reference)
    realised = nannyml.PerformanceCalculator(**asked, **kind).fit(reference)
    found: dict[str, list[object]] = {"univariate": [], "cbpe": [], "realised": []}
    for path in sorted(folder.glob("case-*.parquet")):
        day = pd.read_parquet(path)
        found["univariate"].append(_drifted(drift, day, names))
        found["cbpe"].append(_alerted(estimate.estimate(day)))
        found["realised"].append(_alerted(realised.calculate(day)))
    return found


def _drifted(drift: "nannyml.UnivariateDriftCalculator", day: pd.DataFrame, names: list[str]) -> list[str]:
    table = drift.calculate(day).filter(period="analysis").to_df()
    return [name for name in names if bool(table[name].xs("alert", axis=1, level=1).any(axis=None))]


def _alerted(result: "nannyml.base.AbstractResult") -> bool:
    table = result.filter(period="analysis").to_df()
    return bool(table.xs("alert", axis=1, level=1).any(axis=None))


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), json.loads(sys.argv[2]))))
