"""What tests of several folders share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def goldens_folder() -> Path:
    """What the reference computed: fixtures/goldens, or a folder of the same form named by VLMERGE_GOLDENS."""
    return Path(os.environ.get("VLMERGE_GOLDENS") or Path(__file__).parent.parent / "fixtures" / "goldens")


@pytest.fixture(scope="session")
def goldens() -> Path:
    return goldens_folder()
