"""The gate before training: a leakage audit of every candidate training set, on which nothing is trained that fails it."""

from monitoring.gate.judge import accept, accepted, judge

__all__ = ["accept", "accepted", "judge"]
