"""What every test shares: none reads or writes the cache of the person who runs it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    before = os.environ.get("GREENML_CACHE_DIR")
    os.environ["GREENML_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))  # children inherit it
    yield
    if before is None:
        del os.environ["GREENML_CACHE_DIR"]
    else:
        os.environ["GREENML_CACHE_DIR"] = before
