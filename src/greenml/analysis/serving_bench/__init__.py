"""The figures of a serving benchmark: latency, energy, carbon and cost by load, each with its interval."""
