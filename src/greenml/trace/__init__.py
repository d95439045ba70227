"""The trace: what one process of a run appends to its file, written and read."""
