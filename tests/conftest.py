"""What every test shares: none reads or writes the cache of the person who runs it.

Hypothesis tries the same examples each time; ``HYPOTHESIS_PROFILE=search`` looks for new ones.
"""

from __future__ import annotations

import os

import hypothesis
import pytest

hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.register_profile("search", max_examples=1000, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    before = os.environ.get("GREENML_CACHE_DIR")
    os.environ["GREENML_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))  # children inherit it
    yield
    if before is None:
        del os.environ["GREENML_CACHE_DIR"]
    else:
        os.environ["GREENML_CACHE_DIR"] = before
