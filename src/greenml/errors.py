"""The error tree.

::

    GreenMLError
    ├── SensorError            could not be read now: this sample is missing, the next tick tries again
    │   └── SensorLostError    will not answer again: the sampler drops it
    ├── FactorError            no intensity or price for this place and time
    ├── RecordError            not a trace or record that this version reads
    └── SettingsError          a value the user gave is wrong; lists what would be right

A message says what failed, where, and what to do, in one line.
"""


class GreenMLError(Exception):
    """Anything that greenml raises."""


class SensorError(GreenMLError):
    """A sensor could not be read now; the next tick tries again."""


class SensorLostError(SensorError):
    """A sensor will not answer again; the sampler drops it."""


class FactorError(GreenMLError):
    """There is no carbon intensity, price or PUE for this place and time."""


class RecordError(GreenMLError):
    """A file is not a trace, a record or an export that this version reads."""


class SettingsError(GreenMLError, ValueError):
    """A value that the user gave is wrong; the message lists what would be right."""
