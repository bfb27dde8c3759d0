"""The guard of a canary: counts by arm, bounds that hold at every look, and what follows from them."""

from monitoring.canary.counts import Counts
from monitoring.canary.guard import Bands, Reading, Verdict, judge

__all__ = ["Bands", "Counts", "Reading", "Verdict", "judge"]
