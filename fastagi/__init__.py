"""Agent feature codes for Asterisk: a phone, a store, the queues, one truth."""
