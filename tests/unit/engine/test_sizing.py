"""Sizing: what is shown, and what a refusal says."""

from __future__ import annotations

import pytest
from tests.unit.core.shapes import shape

from runner_supervisor.core.demand import Demand
from runner_supervisor.core.fitting import Free, fit
from runner_supervisor.core.memory import MIB
from runner_supervisor.engine.sizing import Sizing, mib
from runner_supervisor.errors import MemoryLackError

GIB = 1024 * MIB


def sizing(demand: Demand, free: Free) -> Sizing:
    """Sizing of a plain model."""
    return Sizing(fit=fit(shape(), demand, free), free=free, flags=(), ladder=())


def test_the_prompt_cache_is_shown_as_a_limit_and_is_no_part_of_what_is_needed() -> None:
    found = sizing(Demand(ctx_tokens=4096), Free(100 * GIB))
    rows = {name: size for name, size, _ in found.lines}
    assert rows["prompt cache (host)"] == "up to 8192 MiB"
    assert rows["needed (host)"] == mib(found.fit.estimate.working_bytes)
    assert found.fit.estimate.working_bytes < GIB
    assert list(rows)[-2:] == ["needed (host)", "free (host)"]
    found.require()


def test_a_refusal_names_the_prompt_cache_only_if_it_was_asked_for() -> None:
    asked = r"needs about \d+ MiB of memory and 4096 MiB of prompt cache, and 2048 MiB .* leave --cache-ram out"
    with pytest.raises(MemoryLackError, match=asked):
        sizing(Demand(ctx_tokens=4096, cache_ram_mib=4096), Free(2 * GIB)).require()
    with pytest.raises(MemoryLackError, match=r"needs about \d+ MiB of memory, and 10 MiB .* no context is small"):
        sizing(Demand(ctx_tokens=4096), Free(10 * MIB)).require()
    with pytest.raises(MemoryLackError, match=r"needs about .* of memory, and 1024 MiB .* a context of \d+ tokens"):
        sizing(Demand(ctx_tokens=1_000_000), Free(GIB)).require()
