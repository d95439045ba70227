"""What would have saved energy, carbon or money in a run; a rule is one function."""
