"""Does the model fit into the memory that is free, and what follows: flags left to us, and the steps down."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from runner_supervisor.core.demand import DEFAULT_CACHE_RAM_MIB, demand_of
from runner_supervisor.core.fitting import Fit, Floor, Free, Rung, fit, ladder
from runner_supervisor.engine.gguf import read_shape
from runner_supervisor.engine.memory import cpu_features, free_memory
from runner_supervisor.errors import MemoryLackError

MIB = 1024 * 1024
NOTHING = Free(0)


@dataclass(frozen=True, slots=True)
class Sizing:
    """What `fit` found for one model and its flags; `flags` are to be added to them, `ladder` is for later."""

    fit: Fit
    free: Free
    flags: tuple[str, ...]
    ladder: tuple[Rung, ...]

    @property
    def lines(self) -> list[tuple[str, str, str]]:
        """The sum, line by line: what, how much, how it comes about."""
        rows = [
            (f"{item.name} ({item.place})", ("up to " if item.grows else "") + mib(item.size_bytes), item.how)
            for item in self.fit.estimate.items
        ]
        rows.append(("needed (host)", mib(self.fit.estimate.working_bytes), "without the prompt cache"))
        rows.append(("free (host)", mib(self.free.host_bytes), self.free.host_limit))
        if self.free.gpu_bytes:
            rows.append(("needed (GPU)", mib(self.fit.estimate.gpu_bytes), ""))
            rows.append(("free (GPU)", mib(sum(self.free.gpu_bytes)), f"{len(self.free.gpu_bytes)} GPUs"))
        return rows

    def require(self) -> None:
        """Make sure it fits.

        Raises:
            MemoryLackError: it does not; the message names the largest context that would.
        """
        if self.fit.fits:
            return
        estimate = self.fit.estimate
        cache_bytes = estimate.host_needed_bytes - estimate.working_bytes if self.fit.cache_ram_asked else 0
        cache = f" and {mib(cache_bytes)} of prompt cache" if cache_bytes else ""
        needed = f"{mib(estimate.working_bytes)} of memory{cache}"
        free = f"{mib(self.free.host_bytes)} of {self.free.host_limit}"
        largest = self.fit.largest_ctx
        if largest:
            tokens = _rounded(largest)
            way = f"a context of {tokens} tokens would fit: -- --ctx-size {tokens}"
        elif cache and estimate.working_bytes <= self.free.host_bytes:
            way = "leave --cache-ram out, and the prompt cache gets what is left over"
        else:
            way = "no context is small enough: take a smaller model or a smaller quantisation"
        raise MemoryLackError(
            f"the model needs about {needed}, and {free} are free; {way}, or start anyway with --force"
        )


def size_up(model: Path, args: tuple[str, ...], *, backend: str, floor: Floor, given_back: Free = NOTHING) -> Sizing:
    """Estimate what a model with these llama-server flags takes, against what is free now.

    Args:
        model: GGUF file.
        args: llama-server's flags.
        backend: what the binary computes on; all but `cpu` use the GPUs there are.
        floor: how far the ladder goes down.
        given_back: what will be free besides by then.

    Raises:
        ModelError: the file is no GGUF, or broken.
    """
    shape = read_shape(model)
    now = free_memory()
    gpus = tuple(size + more for size, more in zip_longest(now.gpu_bytes, given_back.gpu_bytes, fillvalue=0))
    free = replace(now, host_bytes=now.host_bytes + given_back.host_bytes, gpu_bytes=gpus[: len(now.gpu_bytes)])
    demand = demand_of(args, gpus=0 if backend == "cpu" else len(free.gpu_bytes), cpu=cpu_features())
    found = fit(shape, demand, free)
    flags: tuple[str, ...] = ()
    if demand.cache_ram_mib is None and found.cache_ram_mib < DEFAULT_CACHE_RAM_MIB:
        flags = ("--cache-ram", str(found.cache_ram_mib))
    return Sizing(fit=found, free=free, flags=flags, ladder=ladder(shape, demand, floor))


def _rounded(tokens: int) -> int:
    """A little less, so that it still fits a moment later, and a number that can be remembered."""
    less = int(tokens * 0.97)
    return less - less % 1024 if less > 8 * 1024 else tokens


def mib(size_bytes: int) -> str:
    """Bytes as people read them: MiB, or GiB from ten of those on."""
    return f"{size_bytes / MIB:.0f} MiB" if size_bytes < 10 * 1024 * MIB else f"{size_bytes / MIB / 1024:.1f} GiB"
