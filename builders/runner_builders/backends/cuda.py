"""NVIDIA's GPUs: which architectures to compile for, and whether toolkit, driver and host compiler go together."""

from __future__ import annotations

import re
from collections.abc import Mapping

from runner_builders.backends import cpu
from runner_builders.backends.cublas import choose
from runner_builders.errors import BuilderError, ToolchainError
from runner_builders.plan import Option, Share, Wishes
from runner_builders.toolchain.values import Compilers, Cuda, Driver, Missing, Toolchain, Version, dotted, require

DEVICE = "CUDA"
JOB_BYTES = 750_000_000
"""Measured: the largest job takes 0.73 GB."""

ARCHITECTURE = re.compile(r"(?:sm_|compute_)?(\d{2,3}|\d{1,2}\.\d)")
COMMON_ARCHITECTURES = (75, 80, 86, 89, 90, 120)
"""For a machine without a GPU: Turing to Blackwell."""

FIRST_TOOLKIT: Mapping[int, Version] = {
    75: (10, 0), 80: (11, 0), 86: (11, 1), 87: (11, 4), 88: (13, 0), 89: (11, 8), 90: (11, 8),
    100: (12, 8), 103: (12, 9), 110: (13, 0), 120: (12, 8), 121: (12, 9),
}  # fmt: skip
"""The CUDA that first compiles for an architecture (the toolkits' release notes, "new architectures")."""

LAST_TOOLKIT: Mapping[int, Version] = {35: (11, 8), 37: (11, 8)} | dict.fromkeys(
    (50, 52, 53, 60, 61, 62, 70, 72), (12, 9)
)
"""The CUDA that last compiles for an architecture: 12.0 dropped Kepler, and 13.0 Maxwell, Pascal and Volta."""

OLDEST_DRIVER = {11: "450", 12: "525", 13: "580"}
"""The driver that runs programs of a CUDA major version (NVIDIA, CUDA compatibility, table 1)."""


def share(toolchain: Toolchain, wishes: Wishes) -> Share:
    """CUDA for the GPUs asked for, else for those here, else for the common ones."""
    cuda = require(toolchain.cuda)
    compilers = require(toolchain.compilers)
    if not wishes.asks("CMAKE_CUDA_HOST_COMPILER"):
        check_host_compiler(cuda, compilers)
    if isinstance(toolchain.driver, Driver):
        check_driver(cuda, toolchain.driver)
    libraries = choose(cuda, toolchain.host, wanted=wishes.cuda_libs, portable=wishes.portable, folder=wishes.wheels)
    return Share(
        options=(
            Option("GGML_CUDA", "ON", "for NVIDIA's GPUs"),
            Option("CMAKE_CUDA_COMPILER", str(cuda.nvcc), f"CUDA {dotted(cuda.version)}"),
            Option("CMAKE_CUDA_HOST_COMPILER", str(compilers.cxx), "nvcc works with the compiler of all the rest"),
            Option("CUDAToolkit_ROOT", str(cuda.root), "nvcc's own toolkit and no other"),
            *([] if wishes.asks("CMAKE_CUDA_ARCHITECTURES") else [_architectures(toolchain, cuda, wishes)]),
            *_without_driver(toolchain.driver),
            Option("GGML_CUDA_NCCL", "OFF", "else a library of this machine's would be needed at run time"),
            *_static_runtime(cuda),
            *libraries.options,
            *cpu.processor(toolchain.host, (), wishes),
        ),
        device_present=isinstance(toolchain.driver, Driver) and bool(toolchain.driver.gpus),
        wheels=libraries.wheels,
        bundled=libraries.bundled,
        language="CUDA",
        toolkit=f"nvcc {dotted(cuda.version)}",
    )


def check_host_compiler(cuda: Cuda, compilers: Compilers) -> None:
    """Whether nvcc takes the C++ compiler.

    Raises:
        ToolchainError: it is too new; the newest that works is named.
    """
    refused = cuda.refused_hosts.get(compilers.kind)
    if refused is None or compilers.version < refused:
        return
    kind = compilers.kind
    newest = f"{kind} {refused[0] - 1}" if len(refused) == 1 else f"{kind} before {dotted(refused)}"
    example = {"gcc": f"g++-{refused[0] - 1}", "clang": f"clang++-{refused[0] - 1}"}.get(kind, "path/to/cl.exe")
    raise ToolchainError(
        f"CUDA {dotted(cuda.version[:2])} does not take {kind} {dotted(compilers.version)}: the newest that works is "
        f"{newest}; install that and name it with --option CMAKE_CUDA_HOST_COMPILER={example}, or use a newer CUDA "
        "toolkit"
    )


def check_driver(cuda: Cuda, driver: Driver) -> None:
    """Whether the driver runs what this toolkit makes. Within a major version of CUDA, it does.

    Raises:
        ToolchainError: it is too old; both versions are named.
    """
    major = cuda.version[0]
    if driver.cuda[0] >= major:
        return
    needed = f"{OLDEST_DRIVER[major]} or newer" if major in OLDEST_DRIVER else "a newer one"
    raise ToolchainError(
        f"the driver {driver.version} runs CUDA up to {dotted(driver.cuda)}, and this toolkit is CUDA "
        f"{dotted(cuda.version[:2])}: update the driver to {needed}, or name the nvcc of a CUDA {driver.cuda[0]} "
        "toolkit with CUDACXX"
    )


def parse_architectures(arch: tuple[str, ...]) -> tuple[int, ...]:
    """GPU architectures as numbers: sm_90, compute_90, 90 and 9.0 are all 90.

    Raises:
        BuilderError: one is none of these.
    """
    numbers = set()
    for text in arch:
        match = ARCHITECTURE.fullmatch(text)
        if not match:
            raise BuilderError(f"--arch {text} is no GPU architecture; write sm_90, 90, 9.0 or native")
        numbers.add(int(match[1].replace(".", "")))
    return tuple(sorted(numbers))


def _architectures(toolchain: Toolchain, cuda: Cuda, wishes: Wishes) -> Option:
    arch = wishes.arch
    gpus = toolchain.driver.gpus if isinstance(toolchain.driver, Driver) else ()
    here = tuple(sorted({gpu.architecture for gpu in gpus}))
    if arch and arch != ("native",):
        numbers, reason = parse_architectures(arch), "the GPUs asked for"
    elif here and (arch or not wishes.portable):
        numbers, reason = here, ", ".join(sorted({gpu.name for gpu in gpus}))
    elif arch:
        raise ToolchainError("--arch native needs a GPU, and none is seen here; name the architecture: --arch sm_90")
    else:
        numbers = tuple(number for number in COMMON_ARCHITECTURES if number in cuda.architectures)
        why = "for other machines" if wishes.portable else "no GPU here"
        reason = f"{why}, so for every common kind; one named with --arch compiles much faster"
    for number in numbers:
        _check_architecture(cuda, number)
    return Option("CMAKE_CUDA_ARCHITECTURES", ";".join(map(str, numbers)), reason)


def _check_architecture(cuda: Cuda, number: int) -> None:
    if number in cuda.architectures:
        return
    here = f"CUDA {dotted(cuda.version[:2])} does not compile for sm_{number}"
    last, first = LAST_TOOLKIT.get(number), FIRST_TOOLKIT.get(number)
    if last and cuda.version > last:
        advice = f"the last that does is CUDA {dotted(last)}: install a CUDA {last[0]}.x toolkit"
    elif first and cuda.version < first:
        advice = f"the first that does is CUDA {dotted(first)}: install that or a newer toolkit"
    else:
        known = ", ".join(f"sm_{known}" for known in cuda.architectures)
        raise ToolchainError(f"{here}, only for {known}; name one of them with --arch, or use another toolkit")
    raise ToolchainError(f"{here}; {advice} and name its nvcc with CUDACXX")


def _without_driver(driver: Driver | Missing) -> tuple[Option, ...]:
    if isinstance(driver, Driver):
        return ()
    return (Option("GGML_CUDA_NO_VMM", "ON", "no driver here: linked to its library, the binary would not start"),)


def _static_runtime(cuda: Cuda) -> tuple[Option, ...]:
    if cuda.static_runtime is None:
        return ()
    return (Option("CUDA_cudart_LIBRARY", str(cuda.static_runtime), "the CUDA runtime goes into the binary"),)
