"""A record beside another meter: the same window, the same devices, and a verdict from both intervals."""
