"""The last steps to a probability as compiled loops.  Used by `models.artefact` and `models.calibrate`, whoever asks them."""

import numpy as np
import numpy.typing as npt

from infra.compiled import compiled

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]


@compiled
def calibrated(margin: F32, slope: float, intercept: float) -> F32:
    """slope margin + intercept, in float64 and cast once."""
    out = np.empty(len(margin), np.float32)
    for i in range(len(margin)):
        out[i] = slope * np.float64(margin[i]) + intercept
    return out


@compiled
def at_slots(s: F64, slot: I64, bias: F64) -> F64:
    """sigmoid(s + bias[slot]), bias as float32; slots past the last one have the last one's."""
    out = np.empty(len(s), np.float64)
    for i in range(len(s)):
        x = s[i] + np.float64(np.float32(bias[min(max(slot[i], 0), len(bias) - 1)]))
        small = np.exp(-abs(x))
        out[i] = (1.0 if x >= 0 else small) / (1.0 + small)
    return out


@compiled
def finite(values: F32) -> bool:
    """Whether all of [n] are finite."""
    found = True
    for value in values:
        found = found and np.isfinite(value)
    return found
