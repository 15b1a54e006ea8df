"""Does a model fit, what would, and which steps down there are after an out-of-memory kill. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from runner_supervisor.core.demand import DEFAULT_CACHE_RAM_MIB, Demand
from runner_supervisor.core.memory import CONTEXT_PAD, MIB, Estimate, context_of, estimate, gpu_layers
from runner_supervisor.core.shape import ModelShape

HEADROOM = 0.05
"""Of what is free, the share left alone: the estimate is not exact, and others use memory too."""
GPU_MARGIN_BYTES = 1024 * MIB
"""What llama-server leaves free on each GPU when it fits layers itself (common/common.h, `fit_params_target`)."""


@dataclass(frozen=True)
class Free:
    """What is free.

    Attributes:
        host_bytes: memory of the host, or of the cgroup that bounds it.
        host_limit: what bounds it, for people: "this machine" or "the memory cgroup".
        gpu_bytes: each GPU's.
    """

    host_bytes: int
    host_limit: str = "this machine"
    gpu_bytes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Fit:
    """The answer.

    Attributes:
        fits: the demand can be met as it is.
        estimate: the sum, with the prompt cache and GPU layers named here.
        cache_ram_mib: the `--cache-ram` to pass; the user's own if there is one.
        cache_ram_asked: it is the user's own.
        gpu_layers: layers that go to GPUs; None without one.
        largest_ctx: the largest `--ctx-size` that fits, up to the model's own or the one asked for; None if none.
    """

    fits: bool
    estimate: Estimate
    cache_ram_mib: int
    cache_ram_asked: bool
    gpu_layers: int | None
    largest_ctx: int | None


@dataclass(frozen=True)
class Floor:
    """How far down the ladder goes: least context a slot can use, in tokens; fewest GPU layers."""

    ctx: int = 2048
    gpu_layers: int = 0


@dataclass(frozen=True)
class Rung:
    """One step down: all flags to append after the user's own, and what it changes, for people."""

    flags: tuple[str, ...]
    says: str


def fit(shape: ModelShape, demand: Demand, free: Free) -> Fit:
    """Compare what `demand` takes with what is `free`.

    A prompt cache nobody asked for gets what is left over: an unused default refuses no one. One the user asked
    for must fit beside what the engine needs to work.
    """

    def met(ctx_tokens: int | None) -> bool:
        return _fits(shape, _placed(shape, replace(demand, ctx_tokens=ctx_tokens), free), free)

    placed = _placed(shape, demand, free)
    if demand.cache_ram_mib is None:
        left = int(free.host_bytes * (1 - HEADROOM)) - estimate(shape, placed).host_needed_bytes
        cache_ram_mib = min(DEFAULT_CACHE_RAM_MIB, max(0, left // MIB))
    else:
        cache_ram_mib = demand.cache_ram_mib
    return Fit(
        fits=_fits(shape, placed, free),
        estimate=estimate(shape, replace(placed, cache_ram_mib=cache_ram_mib)),
        cache_ram_mib=cache_ram_mib,
        cache_ram_asked=demand.cache_ram_mib is not None,
        gpu_layers=placed.gpu_layers,
        largest_ctx=_largest_ctx(shape, demand, met),
    )


def ladder(shape: ModelShape, demand: Demand, floor: Floor) -> tuple[Rung, ...]:
    """The steps down after an out-of-memory kill, each one cumulative: prompt cache, slots, context, GPU layers.

    A step never goes below `floor`, and never up: a setting already at or below it is left as it is. Fewer slots
    keep the context of each where each has its own KV cache, else the context they share.
    """
    return tuple(rung for rung, _ in steps(shape, demand, floor))


def steps(shape: ModelShape, demand: Demand, floor: Floor) -> Iterator[tuple[Rung, Demand]]:
    """The rungs of `ladder`, each with the demand it leaves."""
    flags: dict[str, str] = {}
    now = demand

    def rung(says: str, **given: int) -> tuple[Rung, Demand]:
        flags.update({f"--{name.replace('_', '-')}": str(value) for name, value in given.items()})
        unified = ("--kv-unified",) if now.kv_unified and "--parallel" in flags else ()
        return Rung((*(word for pair in flags.items() for word in pair), *unified), says), now

    if now.cache_ram_mib != 0:
        before = "default" if now.cache_ram_mib is None else str(now.cache_ram_mib)
        now = replace(now, cache_ram_mib=0)
        yield rung(f"cache-ram {before} -> 0", cache_ram=0)
    ctx, per_slot = context_of(shape, now)
    while now.parallel > 1:
        slots = now.parallel // 2
        ctx = ctx if now.kv_unified else per_slot * slots
        says = f"parallel {now.parallel} -> {slots}"
        now = replace(now, parallel=slots, ctx_tokens=ctx)
        yield rung(says, parallel=slots, ctx_size=ctx)
    while ctx > floor.ctx:
        says = f"context {ctx} -> {max(floor.ctx, ctx // 2)}"
        ctx = max(floor.ctx, ctx // 2)
        now = replace(now, ctx_tokens=ctx)
        yield rung(says, ctx_size=ctx)
    layers = gpu_layers(shape, now)
    while layers > floor.gpu_layers:
        says = f"GPU layers {layers} -> {max(floor.gpu_layers, layers // 2)}"
        layers = max(floor.gpu_layers, layers // 2)
        now = replace(now, gpu_layers=layers)
        yield rung(says, gpu_layers=layers)


def _fits(shape: ModelShape, demand: Demand, free: Free) -> bool:
    needed = estimate(shape, demand)
    gpu = sum(max(0, size - GPU_MARGIN_BYTES) for size in free.gpu_bytes)
    return needed.host_needed_bytes <= int(free.host_bytes * (1 - HEADROOM)) and needed.gpu_bytes <= gpu


def _placed(shape: ModelShape, demand: Demand, free: Free) -> Demand:
    """`demand` with the number of GPU layers llama-server would choose, if that is left to it."""
    if not demand.gpus or demand.gpu_layers is not None:
        return demand
    gpu = sum(max(0, size - GPU_MARGIN_BYTES) for size in free.gpu_bytes)

    def with_layers(layers: int) -> Demand:
        return replace(demand, gpu_layers=layers)

    most = _largest(0, len(shape.layers) + 1, lambda layers: estimate(shape, with_layers(layers)).gpu_bytes <= gpu)
    return with_layers(most or 0)


def _largest_ctx(shape: ModelShape, demand: Demand, met: Callable[[int], bool]) -> int | None:
    streams = 1 if demand.kv_unified else demand.parallel
    step = CONTEXT_PAD * streams
    own, asked = (context_of(shape, one)[0] for one in (replace(demand, ctx_tokens=None), demand))
    most = max(own, asked) // step
    steps_up = _largest(1, most, lambda count: met(count * step))
    return None if steps_up is None else steps_up * step


def _largest(low: int, high: int, good: Callable[[int], bool]) -> int | None:
    """The largest number from `low` to `high` that is good, where all below a good one are good too."""
    if not good(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if good(middle) else (low, middle - 1)
    return low
