"""What `clickproof bench serve` compares with, each a process of its own: HTTP that does nothing, the model that does nothing
else, an endpoint as it is often written, and MLflow's own server."""
