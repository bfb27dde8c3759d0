"""Ridge logistic regression by Newton's method in numpy: small dense problems with an exact answer.

`models.position` fits b(slot) with it and `models.calibrate` the two numbers of Platt scaling; neither needs an optimiser
with dials.
"""

import numpy as np
import numpy.typing as npt

from models.threads import blas_threads

Array = npt.NDArray[np.float64]
CHUNK = 32_768  # rows a matrix product works on, so that temporaries stay in cache


def sigmoid(x: npt.NDArray[np.floating]) -> Array:
    """1 / (1 + e^-x) as float64, without overflow for any finite x."""
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)


def softplus(x: npt.NDArray[np.floating]) -> Array:
    """log(1 + e^x) as float64, without overflow."""
    x = np.asarray(x, np.float64)
    return np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x)))


def ridge_logistic(
    design: npt.NDArray[np.floating],
    label: npt.NDArray[np.integer],
    offset: npt.NDArray[np.floating],
    penalty: npt.NDArray[np.floating],
    prior: npt.NDArray[np.floating],
    *,
    iterations: int = 30,
    tolerance: float = 1e-7,
) -> Array:
    """Coefficients w [k] that minimise sum log(1 + e^z) - y z + 1/2 sum penalty (w - prior)^2, with z = design @ w + offset.

    `design` is [n, k] (float32 or float64), `label` 0/1 [n], `offset` [n], `penalty` and `prior` [k]; a positive penalty on
    each column makes the answer unique.  Newton steps with halving (McCullagh and Nelder 1989, section 2.5: iteratively
    reweighted least squares), stopped when a step can gain less than `tolerance` per row.  Raises ArithmeticError when it
    has not converged, which takes NaN in the inputs.
    """
    with blas_threads(1):
        return _newton(design, label, offset, penalty, prior, iterations, tolerance)


def _newton(
    design: npt.NDArray[np.floating],
    label: npt.NDArray[np.integer],
    offset: npt.NDArray[np.floating],
    penalty: npt.NDArray[np.floating],
    prior: npt.NDArray[np.floating],
    iterations: int,
    tolerance: float,
) -> Array:
    n = len(design)
    weights = np.asarray(prior, np.float64).copy()

    def objective(w: Array) -> float:
        loss = 0.5 * float(np.sum(penalty * (w - prior) ** 2))
        for start in range(0, n, CHUNK):
            rows = slice(start, start + CHUNK)
            z = design[rows] @ w.astype(design.dtype) + offset[rows]
            loss += float(np.sum(softplus(z) - label[rows] * z))
        return loss

    current = objective(weights)
    for _ in range(iterations):
        gradient = penalty * (weights - prior)
        hessian = np.diag(np.asarray(penalty, np.float64))
        for start in range(0, n, CHUNK):
            rows = slice(start, start + CHUNK)
            block = design[rows]
            p = sigmoid(block @ weights.astype(design.dtype) + offset[rows])
            gradient += block.T @ (p - label[rows]).astype(design.dtype)
            hessian += block.T @ (block * (p * (1.0 - p)).astype(design.dtype)[:, None])
        step = np.linalg.solve(hessian, gradient)
        if 0.5 * float(gradient @ step) <= tolerance * max(n, 1):
            return weights - step
        scale = 1.0
        while scale > 1e-6 and not (attempt := objective(weights - scale * step)) < current:
            scale *= 0.5
        if scale <= 1e-6:
            if np.isfinite(current):
                return weights  # no step of any length gains: rounding, at the optimum
            break
        weights, current = weights - scale * step, attempt
    raise ArithmeticError(
        f"logistic regression of {n} rows x {design.shape[1]} columns did not converge in {iterations} steps; "
        "look for NaN or infinite values in the features, labels or offsets"
    )
