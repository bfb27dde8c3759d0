"""The last step to a probability: logit p = a s + c + b(slot), with a and c fitted on days that the model did not learn from.

`models.train` fits it on the days after training; it travels in the artefact.  Platt scaling (Platt 1999), with b held fixed
as an offset so that calibration cannot undo the position.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.contract import F32
from models.newton import ridge_logistic

LEAST_SLOPE = 0.05  # a is never allowed to flatten or turn the model's order around


@dataclass(frozen=True, slots=True)
class Calibrator:
    """a and c of logit p = a s + c + b(slot)."""

    slope: float = 1.0
    intercept: float = 0.0

    def apply(self, s: npt.NDArray[np.floating]) -> F32:
        """The calibrated logit without position, float32 [n]."""
        from models.logit_rows import calibrated

        return calibrated(np.ascontiguousarray(s, np.float32), self.slope, self.intercept)

    def to_json(self) -> dict[str, float]:
        """For the artefact's metadata."""
        return {"slope": self.slope, "intercept": self.intercept}

    @classmethod
    def from_json(cls, fields: Mapping[str, float]) -> "Calibrator":
        """What `to_json` gave."""
        return cls(fields["slope"], fields["intercept"])


def fit_calibrator(s: npt.NDArray[np.floating], label: npt.NDArray[np.integer], offset: npt.NDArray[np.floating]) -> Calibrator:
    """Platt scaling of scores `s` [n] with labels 0/1 [n] and b(slot) [n].

    A normal prior of one click's strength (slope around 1, intercept around 0) decides where the data can't, as for a
    constant score.
    """
    s = np.asarray(s, np.float64)
    offset = np.asarray(offset, np.float64)
    centre = float(s.mean()) if len(s) else 0.0
    design = np.stack([s - centre, np.ones(len(s))], axis=1)
    penalty, prior = np.array([1.0, 1e-3]), np.array([1.0, centre])
    slope, level = ridge_logistic(design, label, offset, penalty, prior)
    if slope < LEAST_SLOPE:
        slope = LEAST_SLOPE
        (level,) = ridge_logistic(design[:, 1:], label, offset + slope * (s - centre), penalty[1:], prior[1:])
    return Calibrator(float(slope), float(level - slope * centre))
