"""Measurements: each file prints one set of figures, as ratios against a stated goal or a measured floor."""
