"""Engines: libraries that do the same model's arithmetic, and the choice between them by measurement."""
