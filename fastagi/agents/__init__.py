"""The hall: what an agent is and what may be done. No I/O, no third party."""
