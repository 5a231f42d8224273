"""What happened, told to others: at least once, in order for each agent and sink."""
