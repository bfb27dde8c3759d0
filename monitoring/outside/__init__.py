"""Monitoring on a log that this system did not write: its columns mapped, read, cut into windows and judged."""
