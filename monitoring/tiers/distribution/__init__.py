"""The distribution tier: what the log holds and what it predicts, against what the hours before lead one to expect."""

from monitoring.tiers.distribution.tier import DistributionTier

__all__ = ["DistributionTier"]
