"""From findings to causes: a written table of what each class of bug shows, and the ranking that reads it."""

from monitoring.diagnosis.hypotheses import Hypothesis, diagnose, explains

__all__ = ["Hypothesis", "diagnose", "explains"]
