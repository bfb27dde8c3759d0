"""The simulated ad market: an environment whose true click probability is known."""
