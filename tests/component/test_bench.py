"""The bench's own parts work: its figures are no test, but it must not rot."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench import gate, load
from bench.report import medians, noise
from bench.targets import free_port, running


@pytest.fixture
def engine(short_dir: Path) -> Iterator[int]:
    """The fake engine on a free port."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "bench.engine",
        "--host",
        str(short_dir / "engine.sock"),
        "--tcp-port",
        str(port),
    ]
    core = min(os.sched_getaffinity(0))
    with running([*command, "--core", str(core)], port=port, core=core):
        yield port


def test_short_requests_are_timed(engine: int) -> None:
    result = load.small(engine, connections=4, duration_s=0.2)
    assert len(result.times_s) > 4
    assert all(time_s > 0 for time_s in result.times_s)


def test_every_event_of_every_stream_is_counted(engine: int) -> None:
    result = load.streams(engine, load.stream_request(chunks=50, delay_ms=1), count=3, rounds=2)
    assert len(result.times_s) == 6
    assert result.chunks == 6 * (50 + 2)  # and the figures, and [DONE]


def test_figures_are_medians_of_the_rounds() -> None:
    rounds = [{"p50_us": value} for value in (1.0, 9.0, 2.0)]
    figures = {"w1_1": {"direct": rounds}}
    assert medians(figures) == {"w1_1": {"p50_us": {"direct": 2.0}}}
    assert noise(figures) == {"direct": 4.0}


def test_the_gates_cost_is_measured_before_and_after_a_request(tmp_path: Path) -> None:
    costs = gate.measure(tmp_path, keys=20, rows=50, calls=100)
    assert [what.partition(":")[0] for what in costs] == ["before", "after"]
    assert all(0 < cost.p50_us <= cost.p99_us for cost in costs.values())
