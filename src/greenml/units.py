"""Conversion factors, each once. Inside greenml everything is SI; people's units appear only in reports."""

JOULES_PER_KWH = 3_600_000.0
SECONDS_PER_HOUR = 3600.0
GRAMS_PER_KG = 1000.0
GRAMS_PER_POUND = 453.59237  # the international pound of 1959, by definition
JOULES_PER_MILLIJOULE = 1e-3
JOULES_PER_MICROJOULE = 1e-6
WATTS_PER_MILLIWATT = 1e-3
SECONDS_PER_MICROSECOND = 1e-6
BYTES_PER_GIB = 1024**3
BYTES_PER_MB = 1_000_000
BYTES_PER_GB = 1_000_000_000
