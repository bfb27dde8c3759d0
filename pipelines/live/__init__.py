"""The control room: the running system, started on a branch, watched and broken from a page (`clickproof live`)."""
