"""Each integration with its real framework, on CPU, with models of a few parameters."""
