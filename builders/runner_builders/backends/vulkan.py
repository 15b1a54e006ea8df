"""Any GPU with a Vulkan driver."""

from __future__ import annotations

from runner_builders.backends import cpu
from runner_builders.plan import Option, Share, Wishes
from runner_builders.toolchain.values import Toolchain, require

DEVICE = "Vulkan"
JOB_BYTES = 600_000_000


def share(toolchain: Toolchain, wishes: Wishes) -> Share:
    """Vulkan, whose shaders glslc compiles."""
    glslc = require(toolchain.tools.glslc)
    return Share(
        (
            Option("GGML_VULKAN", "ON", "for GPUs with a Vulkan driver"),
            Option("Vulkan_GLSLC_EXECUTABLE", str(glslc.path), "compiles the shaders"),
            *cpu.processor(toolchain.host, wishes.arch, wishes),
        )
    )
