"""What a model may know: event schemas, labels, feature definitions, the as-of join, the online store."""
