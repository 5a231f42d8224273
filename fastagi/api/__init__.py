"""The HTTP side: one module for each system's interface, thin, over the same core."""
