"""Events on their way to others: at least once, in order for each agent and sink, or hook."""
