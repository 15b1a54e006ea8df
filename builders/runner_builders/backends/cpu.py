"""The processor alone, tuned to this machine."""

from __future__ import annotations

from runner_builders.plan import Option
from runner_builders.toolchain import Toolchain


def options(toolchain: Toolchain) -> tuple[Option, ...]:
    """Native code for the processor at hand."""
    return (
        Option("GGML_NATIVE", "ON", f"for this processor ({toolchain.machine}) and no other"),
        Option("GGML_OPENMP", "OFF", "ggml's own threads do without an OpenMP library at run time"),
    )
