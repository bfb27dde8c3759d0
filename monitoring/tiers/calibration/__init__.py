"""The calibration tier: clicks against the sum of p, as a whole and by slice.  Made by `monitoring.monitor`."""

from monitoring.tiers.calibration.tier import CalibrationTier

__all__ = ["CalibrationTier"]
