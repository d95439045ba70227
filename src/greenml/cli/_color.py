"""Whether an output is coloured."""

from __future__ import annotations

import os
from typing import TextIO


def wanted(stream: TextIO) -> bool:
    """Tell whether a stream is a terminal whose person wants colours.

    Source: https://no-color.org (set and not empty: no colours).
    """
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
