"""The statistics of an A/B test: what users did by arm, intervals that may be looked at every day, power, and trust.

Pure; `pipelines.experiment` feeds it.  Live traffic's arms are watched by the tier (`monitoring.tiers.experiment`).
"""
