"""From a toolchain and what was asked for to a build plan: which CMake options, and why each. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from runner_builders.errors import BuilderError
from runner_builders.patches import Patch
from runner_builders.pin import Pin
from runner_builders.toolchain.values import Host, Tool, Toolchain, require

KEY_CHARACTERS = 16
OPTION = re.compile(r"(?P<name>(GGML_|LLAMA_|CMAKE_|CUDA)\w*)=(?P<value>.*)")
CUDA_LIBS = ("auto", "toolkit", "wheel")


@dataclass(frozen=True, slots=True)
class Option:
    """One CMake option and why it has its value."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package whose libraries a build needs: what to ask the package index for, and the folder to unpack it in."""

    requirement: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Wishes:
    """What was asked for beside the backend.

    `arch` names GPU architectures or a kind of processor. `options` are CMake's, as (name, value). `wheels` is the
    folder that keeps libraries from the package index.
    """

    arch: tuple[str, ...] = ()
    portable: bool = False
    options: tuple[tuple[str, str], ...] = ()
    cuda_libs: str = "auto"
    wheels: Path = Path("cuda")

    def asks(self, name: str) -> bool:
        """Whether this CMake option was asked for, so that its value is the asker's to answer for."""
        return any(name == asked for asked, _ in self.options)


@dataclass(frozen=True, slots=True)
class Share:
    """A backend's part of a plan.

    Its options; whether this machine is known to have such a device; the wheels it needs; the libraries (globs)
    that go beside the binary; the language beside C and C++ that it is compiled from, and with what.
    """

    options: tuple[Option, ...]
    device_present: bool = False
    wheels: tuple[Wheel, ...] = ()
    bundled: tuple[str, ...] = ()
    language: str = ""
    toolkit: str = ""


class Backend(Protocol):
    """What a module in `backends` offers."""

    DEVICE: str
    """How `--list-devices` names its devices, but for their numbers; empty for the processor."""
    JOB_BYTES: int
    """Memory that one compile job takes."""

    def share(self, toolchain: Toolchain, wishes: Wishes) -> Share:
        """Its part of the plan.

        Raises:
            ToolchainError: it cannot be built with this toolchain; the message says what to do.
            BuilderError: what was asked for makes no sense for it.
        """


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """All that goes into a build. Equal plans give equal keys, and a key is built once.

    `launchers` are options that make the build faster and not other. `outputs` is what to install, as globs in
    CMake's bin folder; `bundled` are libraries (globs) that are copied there first. `device` is how `--list-devices`
    names what it computes on, which has to be there if `device_present`. `codesign` signs the outputs, on a Mac.
    """

    backend: str
    commit: str
    patches: tuple[Patch, ...]
    options: tuple[Option, ...]
    launchers: tuple[Option, ...]
    compiler: str
    compiler_paths: tuple[str, str]
    cpu: str
    outputs: tuple[str, ...]
    wheels: tuple[Wheel, ...]
    bundled: tuple[str, ...]
    device: str
    device_present: bool
    codesign: Path | None

    @property
    def key(self) -> str:
        """The name of the build's folder."""
        parts = [
            self.backend,
            self.commit,
            [patch.sha256 for patch in self.patches],
            sorted((option.name, option.value) for option in self.options),
            self.compiler,
            self.compiler_paths,
            self.cpu,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:KEY_CHARACTERS]

    @property
    def cmake_arguments(self) -> list[str]:
        """The options as CMake's command line takes them."""
        return [f"-D{option.name}={option.value}" for option in (*self.options, *self.launchers)]

    @property
    def asked(self) -> dict[str, str]:
        """The options that were asked for."""
        return {option.name: option.value for option in self.options if option.reason == ASKED}


ASKED = "asked for"
SURROUNDED = "else taken from whatever git repository surrounds the tree"
COMMON = (
    Option("CMAKE_BUILD_TYPE", "Release", "optimised code"),
    Option("LLAMA_BUILD_TESTS", "OFF", "only llama-server is wanted"),
    Option("LLAMA_BUILD_EXAMPLES", "OFF", "only llama-server is wanted"),
    Option("LLAMA_OPENSSL", "OFF", "it listens on a private socket; TLS is the front's"),
    Option("LLAMA_USE_PREBUILT_UI", "OFF", "a build downloads nothing but the verified source"),
    Option("LLAMA_BUILD_NUMBER", "0", SURROUNDED),
    Option("GGML_CCACHE", "OFF", "the builder says itself which cache is used"),
    Option("GGML_OPENMP", "OFF", "ggml's own threads do without an OpenMP library at run time"),
)


def common_options(pin: Pin) -> tuple[Option, ...]:
    """The options that every build at the pin has, whatever the machine and whatever it computes on."""
    return (*COMMON, Option("LLAMA_BUILD_COMMIT", pin.commit[:12], SURROUNDED))


def linkage(host: Host, *, portable: bool) -> tuple[Option, ...]:
    """How the binary finds what it is made of."""
    if not portable:
        return (Option("BUILD_SHARED_LIBS", "OFF", "one file to install, with nothing of llama.cpp's to find"),)
    return (
        Option("BUILD_SHARED_LIBS", "ON", "backends are loaded at run time, so they are libraries"),
        Option("GGML_BACKEND_DL", "ON", "one binary, and the backends that fit the machine it runs on"),
        Option("CMAKE_PLATFORM_NO_VERSIONED_SONAME", "ON", "one file a library, and no links to install"),
        *beside(host),
    )


def beside(host: Host) -> tuple[Option, ...]:
    """Have the binary find libraries in its own folder, where ggml looks for backends as well."""
    if not host.rpath_origin:
        return ()
    return rpath(host.rpath_origin, "libraries lie beside the binary, wherever it is put")


def rpath(folder: str, reason: str) -> tuple[Option, ...]:
    """Have the binary find libraries in a folder."""
    return (
        Option("CMAKE_INSTALL_RPATH", folder, reason),
        Option("CMAKE_BUILD_WITH_INSTALL_RPATH", "ON", "what is built is what is installed"),
    )


def parse_options(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """NAME=VALUE options for CMake.

    Raises:
        BuilderError: one has no value, or a name that is not llama.cpp's, ggml's, CMake's or CUDA's.
    """
    parsed = []
    for text in texts:
        match = OPTION.fullmatch(text)
        if not match:
            raise BuilderError(
                f"--option {text} is not understood; write NAME=VALUE with a name that begins with GGML_, LLAMA_, "
                "CMAKE_ or CUDA"
            )
        parsed.append((match["name"], match["value"]))
    return tuple(parsed)


def make_plan(*, name: str, backend: Backend, pin: Pin, toolchain: Toolchain, wishes: Wishes) -> BuildPlan:
    """The plan for one backend at the pin with one toolchain.

    Raises:
        ToolchainError: this toolchain cannot build it; the message says what to do.
        BuilderError: what was asked for makes no sense.
    """
    compilers = require(toolchain.compilers)
    require(toolchain.tools.cmake)
    require(toolchain.tools.ninja)
    host = toolchain.host
    share = backend.share(toolchain, wishes)
    ours = (*common_options(pin), *linkage(host, portable=wishes.portable), *share.options)
    options = with_asked(ours, wishes.options)
    native = any(option.name == "GGML_NATIVE" and option.value == "ON" for option in options)
    libraries = (host.library_pattern,) if wishes.portable else ()
    return BuildPlan(
        backend=name,
        commit=pin.commit,
        patches=pin.patches,
        options=options,
        launchers=_launchers(toolchain.tools.launcher, share.language),
        compiler=", ".join(filter(None, (compilers.description, share.toolkit))),
        compiler_paths=(str(compilers.cc), str(compilers.cxx)),
        cpu=host.cpu if native else host.machine,
        outputs=(f"llama-server{host.executable_suffix}", *libraries, *(Path(glob).name for glob in share.bundled)),
        wheels=share.wheels,
        bundled=share.bundled,
        device=backend.DEVICE,
        device_present=share.device_present,
        codesign=require(toolchain.apple).codesign if host.system == "darwin" else None,
    )


def with_asked(ours: tuple[Option, ...], asked: tuple[tuple[str, str], ...]) -> tuple[Option, ...]:
    """Our options with those that were asked for in the place of, or after, ours. The last word of a name counts."""
    values = dict(asked)
    kept = tuple(
        replace(option, value=values.pop(option.name), reason=ASKED) if option.name in values else option
        for option in ours
    )
    return (*kept, *(Option(name, value, ASKED) for name, value in values.items()))


def _launchers(tool: Tool | None, language: str) -> tuple[Option, ...]:
    if tool is None:
        return ()
    reason = f"{tool.path.stem} {tool.version} keeps what was compiled before"
    names = (f"CMAKE_{each}_COMPILER_LAUNCHER" for each in ("C", "CXX", language) if each)
    return tuple(Option(name, str(tool.path), reason) for name in names)


def jobs_for(host: Host, job_bytes: int) -> int:
    """How many compile jobs at once: one a processor, as far as memory goes."""
    return max(1, min(host.processors, host.memory_bytes // job_bytes))
