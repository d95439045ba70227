"""What a training will use, before it runs."""
