"""One run: its processes, its folder of traces, and the record that they become."""
