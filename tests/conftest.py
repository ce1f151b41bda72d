"""Shared fixtures: the real clips where they are at hand, and a tiny bundled sample."""

from __future__ import annotations

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data():
    """Return a function that gives a test clip's path, or skips naming the file that is missing."""

    def find(name: str) -> Path:
        path = DATA / name
        if not path.exists():
            pytest.skip(f"needs {name} of the test data folder, which is not here")
        return path

    return find
