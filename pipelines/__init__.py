"""Where everything meets: the `clickproof` command, flows, sources, drills."""
