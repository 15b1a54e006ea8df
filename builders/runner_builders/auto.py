"""Which backend a machine is for, when none is named. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from runner_builders.toolchain.values import Driver, Missing, Toolchain


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend's name and why it was chosen."""

    backend: str
    reason: str


def choose_backend(toolchain: Toolchain) -> Choice:
    """CUDA where there is an NVIDIA GPU and a toolkit, Metal on Apple silicon, else the processor."""
    if toolchain.host.is_apple_silicon:
        return Choice("metal", "this Mac has Apple's own GPU")
    if not isinstance(toolchain.driver, Driver) or not toolchain.driver.gpus:
        return Choice("cpu", "no NVIDIA GPU is seen here, and this is no Mac with Apple silicon")
    names = ", ".join(sorted({gpu.name for gpu in toolchain.driver.gpus}))
    if isinstance(toolchain.cuda, Missing):
        return Choice("cpu", f"there is an NVIDIA GPU ({names}), but {toolchain.cuda.why}")
    return Choice("cuda", f"there is an NVIDIA GPU ({names}) and a CUDA toolkit")
