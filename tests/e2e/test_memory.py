"""The memory estimate against the real llama-server.

The shapes have weights of f32, f16, q8_0, q4_0, q4_K and q6_K, rearranged as the CPU likes: on one with AMX they also
show that the build has none of the AMX code that crashes.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tools.memory_error import SMALL, Case, measure

MOST_ERROR = 0.10


@pytest.mark.parametrize("case", SMALL, ids=[case.name for case in SMALL])
def test_the_estimate_is_within_a_tenth_of_what_is_resident(case: Case, engine_build: Path, short_dir: Path) -> None:
    server = engine_build.parent / str(json.loads(engine_build.read_text())["binary"])
    found = measure(server, case, short_dir)
    lines = [f"{item.name}: {item.size_bytes}" for item in found.estimate.items]
    assert abs(found.error) <= MOST_ERROR, f"{found.error:+.1%} of {found.rss_bytes}: {lines}"
