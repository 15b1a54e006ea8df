"""From settings to what is to be run: model, binary, flags, memory, and the numbers of a policy."""

from __future__ import annotations

import importlib.resources
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner_supervisor.core.fitting import HEADROOM, Floor, Free
from runner_supervisor.core.lifecycle import Policy
from runner_supervisor.core.restart import RestartPolicy
from runner_supervisor.engine.binary import EngineBinary, require_gpu
from runner_supervisor.engine.command import DEMO_ARGS
from runner_supervisor.engine.model import check_model
from runner_supervisor.engine.sizing import Sizing, size_up
from runner_supervisor.engine.supervisor import EngineSpec
from runner_supervisor.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Plan:
    """What settings lead to: an engine, the numbers by which it is kept, and whether two fit into memory at once."""

    settings: Settings
    spec: EngineSpec
    policy: Policy
    fits_beside: bool


@dataclass(frozen=True, slots=True)
class Predecessor:
    """The engine that makes room for the planned one: host memory that it has, and may come to have; its GPU memory.

    In bytes; the last two as estimated.
    """

    held_bytes: int = 0
    needed_bytes: int = 0
    gpu_bytes: int = 0


NOBODY = Predecessor()


def demo_model() -> Path:
    """The model that comes along."""
    return Path(str(importlib.resources.files("runner_supervisor") / "demo" / "demo.gguf"))


def model_of(settings: Settings) -> Path:
    """The model to serve."""
    return settings.model or demo_model()


def flags_of(settings: Settings) -> tuple[str, ...]:
    """llama-server's flags: the demo model's, if it is that, and the user's."""
    return (*(() if settings.model else DEMO_ARGS), *settings.engine_flags)


def sizing_of(settings: Settings, *, backend: str, before: Predecessor = NOBODY) -> Sizing:
    """What the model takes, against what is free.

    Raises:
        ModelError: the model file is missing or broken.
    """
    model = model_of(settings)
    check_model(model)
    floor = Floor(ctx=settings.floor_context, gpu_layers=settings.floor_gpu_layers)
    given_back = Free(before.held_bytes, gpu_bytes=(before.gpu_bytes,))
    return size_up(model, flags_of(settings), backend=backend, floor=floor, given_back=given_back)


def policy_of(settings: Settings) -> Policy:
    """The numbers by which an engine is kept."""
    return Policy(
        load_timeout_s=settings.load_timeout_s,
        stall_timeout_s=settings.stall_timeout_s,
        stop_grace_s=settings.stop_grace_s,
        restart=RestartPolicy(
            backoff_cap_s=settings.backoff_cap_s,
            breaker_deaths=settings.breaker_deaths,
            breaker_window_s=settings.breaker_window_s,
            cooldown_s=settings.breaker_cooldown_s,
        ),
    )


def plan_for(
    settings: Settings,
    *,
    find_binary: Callable[[], EngineBinary],
    tell: Callable[[Sizing], None],
    before: Predecessor = NOBODY,
) -> Plan:
    """All that follows from the settings. Blocks: it reads the model's header, and may build llama-server.

    Args:
        settings: what is wanted.
        find_binary: finds or builds llama-server.
        tell: is told what the model takes, before it is refused for that.
        before: the engine that serves now.

    Raises:
        RunnerError: the model is missing, broken or too large, there is no binary, or no GPU for it.
    """
    binary = find_binary()
    if not settings.allow_cpu:
        require_gpu(binary)
    sizing = sizing_of(settings, backend=binary.backend, before=before)
    tell(sizing)
    blind = binary.backend != "cpu" and not sizing.free.gpu_bytes
    if not (settings.force or blind):
        sizing.require()
    elif not sizing.fit.fits:
        why = "as --force says" if settings.force else f"as the memory of {binary.backend}'s devices is not known"
        logger.warning("the model is estimated not to fit into memory; started anyway, %s", why)
    if sizing.flags:
        logger.info("memory is short: llama-server gets %s", " ".join(sizing.flags))
    model = model_of(settings)
    stat = model.stat()
    needed = sizing.fit.estimate.working_bytes
    spec = EngineSpec(
        binary=binary,
        model=model,
        args=flags_of(settings),
        stamp=(stat.st_size, stat.st_mtime_ns),
        needed_bytes=needed,
        gpu_bytes=sizing.fit.estimate.gpu_bytes,
        sized=sizing.flags,
        ladder=sizing.ladder,
    )
    both = max(before.held_bytes, before.needed_bytes) + needed
    host_left = sizing.free.host_bytes * (1 - HEADROOM) - both
    gpu_left = sum(sizing.free.gpu_bytes) - before.gpu_bytes - sizing.fit.estimate.gpu_bytes
    beside = host_left >= 0 and gpu_left >= 0
    return Plan(settings=settings, spec=spec, policy=policy_of(settings), fits_beside=beside)
