"""From a request to an answer: the scorer, policy, REST endpoint, batch scoring, the prediction log."""
