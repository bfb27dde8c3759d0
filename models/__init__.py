"""From features to a probability: families, artefacts, training, evaluation, gates, the registry."""
