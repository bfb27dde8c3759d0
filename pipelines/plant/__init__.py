"""The plant: a branch's world goes on, is served, ingested and cut into windows, with a bug at its real stage or without."""
