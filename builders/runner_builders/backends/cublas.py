"""cuBLAS: from the toolkit or from the package index, and how the binary finds it at run time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runner_builders.errors import ToolchainError
from runner_builders.plan import Option, Wheel, beside, rpath
from runner_builders.toolchain.values import Cuda, Host, dotted

LIBRARIES = ("cublas", "cublasLt")


@dataclass(frozen=True, slots=True)
class Release:
    """The wheel that holds cuBLAS for a major version of CUDA, and the folder in it with `include` and `lib`."""

    requirement: str
    folder: str


RELEASES = {
    12: Release("nvidia-cublas-cu12==12.9.1.4", "nvidia/cublas"),
    13: Release("nvidia-cublas==13.0.2.14", "nvidia/cu13"),
}


@dataclass(frozen=True, slots=True)
class Libraries:
    """Where cuBLAS comes from, as the parts of a plan."""

    options: tuple[Option, ...]
    wheels: tuple[Wheel, ...] = ()
    bundled: tuple[str, ...] = ()


def choose(cuda: Cuda, host: Host, *, wanted: str, portable: bool, folder: Path) -> Libraries:
    """Decide where cuBLAS comes from: `wanted` is toolkit, wheel, or auto (the toolkit's if it has one).

    Raises:
        ToolchainError: it cannot come from there.
    """
    if wanted == "wheel" or (wanted == "auto" and cuda.cublas is None):
        return _from_wheel(cuda, host, folder, portable=portable)
    if cuda.cublas is None:
        raise ToolchainError(
            f"the CUDA toolkit in {cuda.root} has no cuBLAS for development; install it (`apt install "
            f"libcublas-dev-{dotted(cuda.version[:2]).replace('.', '-')}`), or use --cuda-libs wheel"
        )
    if host.system == "win32":
        return Libraries(options=(), bundled=tuple(str(cuda.root / "bin" / f"{name}64_*.dll") for name in LIBRARIES))
    if portable:
        return Libraries(options=(), bundled=_sonames(cuda.cublas.parent, cuda))
    return Libraries(options=rpath(str(cuda.cublas.parent), "cuBLAS stays where the toolkit has it"))


def _from_wheel(cuda: Cuda, host: Host, folder: Path, *, portable: bool) -> Libraries:
    release = RELEASES.get(cuda.version[0])
    if release is None or host.system != "linux":
        raise ToolchainError(
            f"no cuBLAS wheel is known for CUDA {dotted(cuda.version[:2])} on {host.system}; install the toolkit's "
            "cuBLAS and use --cuda-libs toolkit"
        )
    wheel = Wheel(requirement=release.requirement, folder=folder / release.requirement.replace("==", "-"))
    inside = wheel.folder / release.folder
    reason = f"cuBLAS from {release.requirement}"
    options = [Option("CMAKE_CUDA_FLAGS", f"-I{inside / 'include'}", f"headers of {reason}")]
    options += [Option(f"CUDA_{name}_LIBRARY", str(inside / "lib" / f"lib{name}.so"), reason) for name in LIBRARIES]
    return Libraries(
        options=(*options, *(() if portable else beside(host))),
        wheels=(wheel,),
        bundled=_sonames(inside / "lib", cuda),
    )


def _sonames(folder: Path, cuda: Cuda) -> tuple[str, ...]:
    """The files that a binary asks for at run time."""
    return tuple(str(folder / f"lib{name}.so.{cuda.version[0]}") for name in LIBRARIES)
