"""The phone: FastAGI calls from Asterisk, one session each."""
