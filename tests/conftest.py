"""What all tests share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No RUNNER_* or OTEL_* setting of the developer's reaches a test, but for where builds are cached."""
    for name in list(os.environ):
        if name.startswith(("RUNNER_", "OTEL_")) and name != "RUNNER_CACHE_DIR":
            monkeypatch.delenv(name)
    monkeypatch.delenv("LLAMA_CPP_DIR", raising=False)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for a Unix socket's name."""
    with tempfile.TemporaryDirectory(prefix="rs-") as name:
        yield Path(name)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """Asynchronous tests run on what the product runs on."""
    return "asyncio", {"use_uvloop": True}
