from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="package")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for built-in data, shared by tests and the processes that they start."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("VLMERGE_CACHE")
    os.environ["VLMERGE_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["VLMERGE_CACHE"]
    else:
        os.environ["VLMERGE_CACHE"] = before
