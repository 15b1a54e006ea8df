"""Apple's GPU: shaders inside the binary, for arm64 alone or for both kinds of Mac."""

from __future__ import annotations

from runner_builders.backends import cpu
from runner_builders.errors import BuilderError, ToolchainError
from runner_builders.plan import Option, Share, Wishes
from runner_builders.toolchain.values import Toolchain, require

DEVICE = "MTL"
JOB_BYTES = 600_000_000
ARCHITECTURES = ("arm64", "x86_64")
OLDEST_MACOS = "13.3"
"""As llama.cpp's own builds for macOS (.github/workflows/build-apple.yml)."""


def share(toolchain: Toolchain, wishes: Wishes) -> Share:
    """Metal with its shader library embedded, so that nothing has to be found at run time."""
    apple = require(toolchain.apple)
    host = toolchain.host
    if not host.is_apple_silicon:
        raise ToolchainError(
            f"Metal is built on Macs with Apple silicon, and this one is {host.machine}; build with --backend cpu"
        )
    return Share(
        (
            Option("GGML_METAL", "ON", f"for Apple's GPU, with the macOS {apple.sdk} SDK"),
            Option("GGML_METAL_EMBED_LIBRARY", "ON", "the shaders lie in the binary: no file to lose"),
            *_processors(toolchain, wishes),
        ),
        device_present=True,
    )


def _processors(toolchain: Toolchain, wishes: Wishes) -> tuple[Option, ...]:
    unknown = set(wishes.arch) - {*ARCHITECTURES, "native"}
    if unknown:
        raise BuilderError(f"--arch {', '.join(sorted(unknown))} is no Mac's; choose arm64, or arm64 and x86_64")
    oldest = Option("CMAKE_OSX_DEPLOYMENT_TARGET", OLDEST_MACOS, f"for macOS {OLDEST_MACOS} and newer")
    if "x86_64" not in wishes.arch:
        return (*cpu.processor(toolchain.host, (), wishes), *([oldest] if wishes.portable else []))
    if wishes.portable:
        raise BuilderError("--portable is for arm64; a universal binary (--arch arm64 --arch x86_64) travels anyway")
    both = tuple(arch for arch in ARCHITECTURES if arch in wishes.arch)
    return (
        Option("CMAKE_OSX_ARCHITECTURES", ";".join(both), f"one binary for {' and '.join(both)}"),
        Option("GGML_NATIVE", "OFF", "no code of one processor is right for both"),
        oldest,
    )
