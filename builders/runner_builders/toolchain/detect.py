"""Looks at this machine. Nothing here fails: what is not there comes back as `Missing`."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from pathlib import Path

from runner_builders.run import run
from runner_builders.toolchain.host import detect_host
from runner_builders.toolchain.nvidia import detect_cuda, detect_driver
from runner_builders.toolchain.values import Apple, Compilers, Missing, Tool, Toolchain, Tools, Version

QUICK_TIMEOUT_S = 30.0


def detect() -> Toolchain:
    """What this machine has. CC, CXX and CUDACXX name other compilers than the system's."""
    return Toolchain(
        host=detect_host(),
        compilers=detect_compilers(),
        tools=_tools(),
        cuda=detect_cuda(),
        driver=detect_driver(),
        apple=detect_apple() if sys.platform == "darwin" else Missing("Metal needs a Mac: it is Apple's"),
    )


def _tools() -> Tools:
    return Tools(
        cmake=_packaged("cmake", folder="CMAKE_BIN_DIR"),
        ninja=_packaged("ninja", folder="BIN_DIR"),
        launcher=_launcher(),
        glslc=_tool("glslc", "no glslc found; install Vulkan's development files: `apt install glslc libvulkan-dev`"),
        hipcc=_tool("hipcc", "no hipcc found; install AMD's ROCm 6.1 or newer and put its bin folder on PATH"),
    )


def detect_compilers() -> Compilers | Missing:
    """The C and C++ compilers: CC and CXX, else the system's."""
    windows = sys.platform == "win32"
    cc = _find("CC", ("cl",) if windows else ("cc", "gcc", "clang"))
    if isinstance(cc, Missing):
        return cc
    cxx = _find("CXX", ("cl",) if windows else ("c++", "g++", "clang++"))
    if isinstance(cxx, Missing):
        return cxx
    outcome = run([str(cxx), *([] if windows else ["--version"])], timeout_s=QUICK_TIMEOUT_S)
    if not outcome.ok or not outcome.tail:
        return Missing(f"{cxx} --version failed: {outcome.last}; repair it or name another with CXX")
    kind, version = identify(outcome.tail)
    return Compilers(cc=cc, cxx=cxx, kind=kind, version=version, description=" ".join(outcome.tail[0].split()))


def identify(lines: list[str]) -> tuple[str, Version]:
    """A compiler's kind and version, from what it says of itself."""
    text = lines[0]
    if "Microsoft" in text:
        kind, found = "msvc", re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    elif "clang" in text:
        kind = "apple-clang" if "Apple" in text else "clang"
        found = re.search(r"version (\d+)\.(\d+)\.(\d+)", text)
    else:
        kind, found = "gcc", re.search(r"(?:^|\s)(\d+)\.(\d+)\.(\d+)(?=\s|$)", text)
    return kind, tuple(map(int, found.groups())) if found else ()


def _find(variable: str, names: tuple[str, ...]) -> Path | Missing:
    wanted = os.environ.get(variable)
    for name in (wanted,) if wanted else names:
        found = shutil.which(name)
        if found:
            return Path(found)
    looked = f"{variable}={wanted}" if wanted else ", ".join(names)
    return Missing(
        f"no C/C++ compiler found (looked for {looked}); install one: `apt install g++`, `dnf install gcc-c++`, "
        "`xcode-select --install` on macOS; on Windows run this in a Visual Studio developer prompt"
    )


def _packaged(name: str, *, folder: str) -> Tool | Missing:
    """The tool that came with this package's dependencies, whose `folder` says where, else the system's.

    A container's image, whose llama-server is built, comes without the former.
    """
    try:
        path = str(getattr(importlib.import_module(name), folder))
    except ImportError:
        path = ""
    found = shutil.which(name, path=path) or shutil.which(name)
    return _versioned(Path(found)) if found else Missing(f"no {name} found; install it with `pip install {name}`")


def _tool(name: str, missing: str) -> Tool | Missing:
    found = shutil.which(name)
    return _versioned(Path(found)) if found else Missing(missing)


def _launcher() -> Tool | None:
    found = shutil.which("ccache") or shutil.which("sccache")
    return _versioned(Path(found)) if found else None


def _versioned(path: Path) -> Tool:
    outcome = run([str(path), "--version"], timeout_s=QUICK_TIMEOUT_S)
    found = re.search(r"\d+(\.\d+)+", "\n".join(outcome.tail))
    return Tool(path=path, version=found[0] if outcome.ok and found else "unknown")


def detect_apple() -> Apple | Missing:
    """Apple's tools, from xcrun."""
    sdk = run(["xcrun", "--sdk", "macosx", "--show-sdk-version"], timeout_s=QUICK_TIMEOUT_S)
    codesign = shutil.which("codesign")
    if not sdk.ok or not codesign:
        return Missing("no macOS SDK found (asked xcrun); install Apple's tools: `xcode-select --install`")
    return Apple(sdk=sdk.last.strip(), codesign=Path(codesign))
