"""Where events come from: the simulated ad market and declared logs."""
