"""A pytest plugin that puts ``GreenCallback`` among the default callbacks of every Trainer: a guest in others' tests.

In a checkout of transformers, of the version that is installed, each of its tests is to end as it does without it:

    PYTHONPATH=GREENML/tests/integrations python -m pytest -p trainer_guest tests/trainer

Tests that count what is in ``output_dir`` are not shown the record and the traces of a run; they see all else.
"""

from __future__ import annotations

import os
import re
import sys

from transformers import trainer

import greenml

trainer.DEFAULT_CALLBACKS.append(greenml.GreenCallback)
listdir = os.listdir


def listdir_of_tests(path="."):
    names = listdir(path)
    if "test_" not in sys._getframe(1).f_globals.get("__name__", ""):
        return names
    return [name for name in names if not re.fullmatch(r"run(-\d+)?\.(json|trace)", name)]


os.listdir = listdir_of_tests
