"""The gauntlet: every bug at every intensity in several worlds, and a scoreboard of what was caught."""
