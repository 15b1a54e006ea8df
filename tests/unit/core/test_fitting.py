"""Fitting: what fits is found exactly, and each step down is a step down."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.core.shapes import demands, shape, shapes

from runner_supervisor.core.demand import Demand, demand_of
from runner_supervisor.core.fitting import Floor, Free, fit, ladder, steps
from runner_supervisor.core.memory import CONTEXT_PAD, MIB, context_of, estimate
from runner_supervisor.core.shape import ModelShape

GIB = 1024 * MIB
frees = st.builds(
    Free, host_bytes=st.integers(0, 8 * GIB), gpu_bytes=st.lists(st.integers(0, 4 * GIB), max_size=2).map(tuple)
)


def test_a_prompt_cache_nobody_asked_for_gets_what_is_left() -> None:
    demand = Demand(ctx_tokens=4096)
    needed = estimate(shape(), demand).host_needed_bytes
    assert fit(shape(), demand, Free(100 * GIB)).cache_ram_mib == 8192
    tight = fit(shape(), demand, Free(int((needed + 100 * MIB) / 0.95) + 1))
    assert (tight.fits, tight.cache_ram_mib) == (True, 100)
    none = fit(shape(), demand, Free(needed))
    assert (none.fits, none.cache_ram_mib) == (False, 0)


def test_a_prompt_cache_the_user_asked_for_must_fit_too() -> None:
    demand = Demand(ctx_tokens=4096, cache_ram_mib=4096)
    found = fit(shape(), demand, Free(2 * GIB))
    assert (found.fits, found.cache_ram_mib, found.largest_ctx) == (False, 4096, None)


def test_a_context_too_large_is_answered_with_one_that_fits() -> None:
    demand = Demand(ctx_tokens=1_000_000)
    found = fit(shape(), demand, Free(GIB))
    assert not found.fits
    assert found.largest_ctx is not None
    assert 32_768 < found.largest_ctx < 1_000_000


def test_layers_left_open_go_to_the_gpu_as_far_as_they_fit() -> None:
    demand = Demand(ctx_tokens=4096, gpus=1)
    assert fit(shape(layers=4), demand, Free(8 * GIB, gpu_bytes=(8 * GIB,))).gpu_layers == 5
    assert fit(shape(layers=4), demand, Free(8 * GIB, gpu_bytes=(GIB + 50 * MIB,))).gpu_layers in range(1, 5)
    assert fit(shape(layers=4), demand, Free(8 * GIB, gpu_bytes=(GIB,))).gpu_layers == 0
    assert fit(shape(layers=4), Demand(), Free(8 * GIB)).gpu_layers is None


@given(shapes, demands, frees)
def test_the_largest_context_fits_and_the_next_does_not(model: ModelShape, demand: Demand, free: Free) -> None:
    found = fit(model, demand, free)
    step = CONTEXT_PAD * (1 if demand.kv_unified else demand.parallel)
    if found.largest_ctx is None:
        assert not fit(model, replace(demand, ctx_tokens=step), free).fits
        assert not found.fits
        return
    assert fit(model, replace(demand, ctx_tokens=found.largest_ctx), free).fits
    most = max(context_of(model, one)[0] for one in (demand, replace(demand, ctx_tokens=None)))
    assert (
        found.largest_ctx == most or not fit(model, replace(demand, ctx_tokens=found.largest_ctx + step), free).fits
    )
    assert found.fits is (found.largest_ctx >= context_of(model, demand)[0])


def test_the_ladder_goes_prompt_cache_slots_context_gpu_layers() -> None:
    demand = Demand(ctx_tokens=8192, parallel=4, gpus=1, gpu_layers=5)
    rungs = ladder(shape(layers=4), demand, Floor(ctx=3000, gpu_layers=2))
    assert [rung.says for rung in rungs] == [
        "cache-ram default -> 0",
        "parallel 4 -> 2",
        "parallel 2 -> 1",
        "context 8192 -> 4096",
        "context 4096 -> 3000",
        "GPU layers 5 -> 2",
    ]
    expected = "--cache-ram 0 --parallel 1 --ctx-size 3000 --gpu-layers 2 --kv-unified"
    assert " ".join(rungs[-1].flags) == expected


def test_slots_with_caches_of_their_own_keep_their_context() -> None:
    demand = Demand(ctx_tokens=8192, parallel=4, kv_unified=False, cache_ram_mib=0)
    assert ladder(shape(), demand, Floor(ctx=2048))[0].flags == ("--parallel", "2", "--ctx-size", "4096")


def test_a_demand_at_the_floor_has_no_steps() -> None:
    demand = Demand(ctx_tokens=2048, parallel=1, cache_ram_mib=0)
    assert ladder(shape(), demand, Floor(ctx=2048)) == ()


@given(shapes, demands, st.integers(1, 50_000), st.integers(0, 9))
def test_every_step_is_down_and_none_below_the_floor(
    model: ModelShape, demand: Demand, floor_ctx: int, floor_layers: int
) -> None:
    floor = Floor(ctx=floor_ctx, gpu_layers=floor_layers)
    before, had = estimate(model, demand), demand
    for rung, now in steps(model, demand, floor):
        after = estimate(model, now)
        assert after.gpu_bytes <= before.gpu_bytes
        if "GPU" not in rung.says:
            assert after.host_bytes <= before.host_bytes
        assert now.parallel >= 1
        assert context_of(model, now)[1] >= min(floor.ctx, context_of(model, had)[1])
        assert now.gpu_layers is None or now.gpu_layers >= min(floor.gpu_layers, now.gpu_layers)
        before, had = after, now


@given(shapes, st.integers(1, 9), st.integers(1, 100_000), st.booleans())
def test_flags_appended_to_the_users_mean_what_the_step_meant(
    model: ModelShape, parallel: int, ctx: int, unified: bool
) -> None:
    flags = ("--parallel", str(parallel), "--ctx-size", str(ctx), *(("--kv-unified",) if unified else ()))
    for rung, meant in steps(model, demand_of(flags), Floor()):
        assert context_of(model, demand_of((*flags, *rung.flags))) == context_of(model, meant)
        assert demand_of((*flags, *rung.flags)).parallel == meant.parallel
