"""AMD's GPUs, with ROCm."""

from __future__ import annotations

import re

from runner_builders.backends import cpu
from runner_builders.errors import BuilderError
from runner_builders.plan import Option, Share, Wishes
from runner_builders.toolchain.values import Toolchain, require

DEVICE = "ROCm"
JOB_BYTES = 750_000_000
TARGET = re.compile(r"gfx[0-9a-f]+")


def share(toolchain: Toolchain, wishes: Wishes) -> Share:
    """HIP, for the GPUs named, else for those that ROCm sees here."""
    hipcc = require(toolchain.tools.hipcc)
    named = tuple(arch for arch in wishes.arch if arch != "native")
    unknown = [arch for arch in named if not TARGET.fullmatch(arch)]
    if unknown:
        raise BuilderError(f"--arch {', '.join(unknown)} is no GPU of AMD's; name it as ROCm does: gfx1100")
    targets = [Option("GPU_TARGETS", ";".join(named), "the GPUs asked for")] if named else []
    return Share(
        (
            Option("GGML_HIP", "ON", "for AMD's GPUs"),
            *targets,
            *cpu.processor(toolchain.host, (), wishes),
        ),
        language="HIP",
        toolkit=f"hipcc {hipcc.version}",
    )
