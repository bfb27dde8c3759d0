"""The plant: a branch whose world goes on, served, ingested and cut into windows hour by hour, with or without a bug."""
