"""Asterisk's queues, over the manager interface (AMI)."""
