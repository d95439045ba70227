"""Callbacks and trackers for trainers: one file a framework, which imports it; nothing else of greenml imports them."""
