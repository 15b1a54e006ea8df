"""The soak, for some seconds: `make soak MINUTES=n` runs it for as long as you like."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import soak
from tests.e2e.conftest import Supervisor

ROUND_MINUTES = 0.4


@pytest.fixture
def service(engine_build: Path, short_dir: Path) -> Iterator[Supervisor]:
    assert engine_build.exists()
    environment = {**os.environ, **soak.SETTINGS}
    with Supervisor(short_dir / "state", *soak.ARGUMENTS, environment=environment) as supervisor:
        yield supervisor.wait_ready()


@pytest.mark.anyio
async def test_the_soak_loses_no_request(service: Supervisor, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = await soak.soak(service, minutes=ROUND_MINUTES)
    assert ledger.lost == []
    assert ledger.answered > 50
    printed = capsys.readouterr().out
    assert "sent again" in printed
    assert "supervisor at the end:" in printed
