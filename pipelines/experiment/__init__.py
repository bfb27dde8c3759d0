"""`clickproof experiment`: an A/B test in the simulated market, or one that the lake has logged, and whether to trust it."""
