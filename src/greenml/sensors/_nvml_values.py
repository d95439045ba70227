"""Numbers out of NVML's unions: nvmlValue_t, and arrays of nvmlSample_t."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from typing import Any

from greenml.sensors._sample_buffer import Stamped

VALUES = ("dVal", "uiVal", "ulVal", "ullVal", "sllVal", "siVal", "usVal")  # by nvmlValueType_t
# nvmlSample_t: a stamp, and a union of 8 bytes that holds one of the same.
SAMPLE_LAYOUTS = [f"@Q{code}{8 - struct.calcsize(code)}x" for code in "dILQqiH"]


def number(value_type: int, value: object) -> float:
    """Read a nvmlValue_t; of a type that is not known, its unsigned int."""
    return float(getattr(value, VALUES[value_type] if 0 <= value_type < len(VALUES) else "uiVal"))


def unpacked(value_type: int, samples: Sequence[ctypes.Structure]) -> Stamped:
    """Read (microseconds, value) out of an array of nvmlSample_t at once: there are many, of each GPU, each second."""
    if not samples:
        return []
    array: Any = samples[0]._b_base_  # whose memory they share
    packed = memoryview(array).cast("B") if array is not None else b"".join(bytes(one) for one in samples)
    packed = packed[: len(samples) * ctypes.sizeof(samples[0])]
    return list(struct.iter_unpack(SAMPLE_LAYOUTS[value_type if 0 <= value_type < len(VALUES) else 1], packed))
