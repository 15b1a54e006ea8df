"""Every row of the bench can be measured. What it says is no test; that it says something is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import workloads
from bench.__main__ import measure
from bench.report import medians, noise, ratio
from bench.workloads import WORKLOADS

SMALL: dict[str, float] = {
    "SMALL_S": 0.1,
    "STREAM_CHUNKS": 3,
    "SPREAD_S": 0.1,
    "FLAT_OUT_CHUNKS": 100,
    "QUIET_STREAMS": 4,
    "REAL_ROUNDS": 1,
}


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """The bench keeps to one core; the other tests need not."""
    cores = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, cores)


def test_every_row_on_every_target(engine_build: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine_build.exists()
    for name, value in SMALL.items():
        monkeypatch.setattr(workloads, name, value)
    figures = measure(1, list(WORKLOADS))
    table = medians(figures)
    assert sorted(table) == sorted(WORKLOADS)
    for name, by_figure in table.items():
        for figure, by_target in by_figure.items():
            assert by_target["front"] > 0
            assert "direct" in by_target
            assert WORKLOADS[name].real or {"splice", "naive"} <= by_target.keys()
            found = ratio(name, figure, by_target)
            assert found is None or isinstance(found[0], float)
    assert set(noise(figures)) >= {"direct", "front"}
