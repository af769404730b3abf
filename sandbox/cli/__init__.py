"""The command line: one module per verb. Empty, because it is imported on the fast path."""
