"""Fixtures that many tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import helpers


def goldens_folder() -> Path:
    """What the reference computed: fixtures/goldens, or a folder of the same form named by VLMERGE_GOLDENS."""
    return Path(os.environ.get("VLMERGE_GOLDENS") or Path(__file__).parent.parent / "fixtures" / "goldens")


@pytest.fixture(scope="session")
def goldens() -> Path:
    return goldens_folder()


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches the network or shows colours."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


@pytest.fixture
def ckpt(tmp_path: Path) -> Path:
    """A tiny modality-specific checkpoint with its Grams and base beside it."""
    return helpers.save_all(tmp_path, helpers.tiny())
