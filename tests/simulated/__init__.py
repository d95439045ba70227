"""The sensors against simulated hardware."""
