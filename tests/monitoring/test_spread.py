"""Shrinking spreads within a family, and tails that stay finite."""

import numpy as np
import pytest
from scipy import stats

from monitoring.spread import shrink, two_sided_log10_p


def test_shrinking_pulls_equal_columns_together_and_leaves_unequal_ones() -> None:
    rng = np.random.default_rng(0)
    alike = rng.chisquare(5, 200) / 5
    pulled, freedom = shrink(alike, 5.0)
    assert np.ptp(pulled) < 0.5 * np.ptp(alike)
    assert freedom == 20.0
    apart = alike * np.exp(rng.normal(size=200) * 3)
    kept, freedom = shrink(apart, 5.0)
    assert np.corrcoef(np.log(kept), np.log(apart))[0, 1] > 0.9
    assert freedom < 7


def test_tails_are_two_sided_and_finite() -> None:
    t = np.array([0.0, -2.0, 3.0, 1e9])
    found = two_sided_log10_p(t, 7.0)
    np.testing.assert_allclose(found[:3], np.log10(2 * stats.t.sf(np.abs(t[:3]), 7.0)))
    assert np.isfinite(found[3])
    assert found[0] == pytest.approx(0.0)
