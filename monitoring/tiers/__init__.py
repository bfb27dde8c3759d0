"""The five kinds of evidence, one file a kind (larger ones with their statistics beside them)."""
