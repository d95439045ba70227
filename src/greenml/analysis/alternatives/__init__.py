"""What a run would have emitted and cost elsewhere, or at another time."""
