"""The machine in numbers, asked at a scrape: processors, memory, and NVIDIA's GPUs where there is a driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import pynvml

from runner_supervisor.front.metrics.series import Family, Kind, Series

CPU = Series(
    "runner_host_cpu_seconds_total",
    Kind.COUNTER,
    "Time that the machine's processors spent, by mode; the sum of all modes grows by one a second and processor.",
    ("mode",),
)
CPUS = Series("runner_host_cpus", Kind.GAUGE, "Processors of the machine, as the system counts them.")
MEMORY = Series("runner_host_memory_bytes", Kind.GAUGE, "Memory of the machine.")
AVAILABLE = Series(
    "runner_host_memory_available_bytes", Kind.GAUGE, "Memory that new work could have without swapping."
)
GPU = ("gpu", "name")
GPU_BUSY = Series("runner_gpu_utilization_ratio", Kind.GAUGE, "Part of the last moments in which a GPU worked.", GPU)
GPU_MEMORY = Series("runner_gpu_memory_bytes", Kind.GAUGE, "Memory of a GPU.", GPU)
GPU_USED = Series("runner_gpu_memory_used_bytes", Kind.GAUGE, "Memory of a GPU that is taken, by whomever.", GPU)
SERIES = (CPU, CPUS, MEMORY, AVAILABLE, GPU_BUSY, GPU_MEMORY, GPU_USED)

MODES = ("user", "system", "iowait", "steal", "idle")
"""Those of psutil's modes that say something; `user` has `nice` in it."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as its driver sees it now. `busy_ratio`: None: it does not say, as parts of one (MIG) do not."""

    number: str
    name: str
    busy_ratio: float | None
    memory_bytes: int
    used_bytes: int


class Gpus:
    """NVIDIA's GPUs, by NVML, which is asked to begin once: that takes long, and the answer stays the same."""

    def __init__(self) -> None:
        self._handles: list[tuple[str, str, Any]] | None = None

    def read(self) -> Sequence[Gpu]:
        """All of them; none without a driver. Not for the event loop: a driver may take its time."""
        if self._handles is None:
            self._handles = _asked(_handles) or []
        gpus = (_asked(partial(_look, *each)) for each in self._handles)
        return [gpu for gpu in gpus if gpu is not None]


def collect(gpus: Sequence[Gpu]) -> Iterator[Family]:
    """The machine, to be rendered. `gpus`: as they were read just now."""
    times = psutil.cpu_times()
    spent = {mode: getattr(times, mode) for mode in MODES if hasattr(times, mode)}
    spent["user"] += getattr(times, "nice", 0.0)
    yield CPU.of(((mode,), seconds) for mode, seconds in spent.items())
    yield CPUS.one(psutil.cpu_count() or 1)
    memory = psutil.virtual_memory()
    yield MEMORY.one(memory.total)
    yield AVAILABLE.one(memory.available)
    if gpus:
        labels = [(gpu, (gpu.number, gpu.name)) for gpu in gpus]
        yield GPU_BUSY.of((names, gpu.busy_ratio) for gpu, names in labels if gpu.busy_ratio is not None)
        yield GPU_MEMORY.of((names, gpu.memory_bytes) for gpu, names in labels)
        yield GPU_USED.of((names, gpu.used_bytes) for gpu, names in labels)


def _handles() -> list[tuple[str, str, Any]]:
    pynvml.nvmlInit()
    handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
    return [(str(number), pynvml.nvmlDeviceGetName(handle), handle) for number, handle in enumerate(handles)]


def _look(number: str, name: str, handle: Any) -> Gpu:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    rates = _asked(partial(pynvml.nvmlDeviceGetUtilizationRates, handle))
    return Gpu(number, name, None if rates is None else rates.gpu / 100, int(memory.total), int(memory.used))


def _asked(question: Callable[[], Any]) -> Any:
    """What NVML answers; None where there is no driver, or it does not know."""
    try:
        return question()
    except pynvml.NVMLError:
        return None
