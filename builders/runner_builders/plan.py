"""From a toolchain to a build plan: which CMake options, and why each. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Protocol

from runner_builders.patches import Patch
from runner_builders.pin import Pin
from runner_builders.toolchain import Toolchain

KEY_CHARACTERS = 16


@dataclass(frozen=True, slots=True)
class Option:
    """One CMake option and why it has its value."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """All that goes into a build. Equal plans give equal keys, and a key is built once."""

    backend: str
    commit: str
    patches: tuple[Patch, ...]
    options: tuple[Option, ...]
    compiler: str
    compiler_paths: tuple[str, str]
    cpu: str

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
        return [f"-D{option.name}={option.value}" for option in self.options]


class Backend(Protocol):
    """What a module in `backends` offers."""

    def options(self, machine: str) -> tuple[Option, ...]:
        """The CMake options that this backend adds on a type of machine."""


COMMON = (
    Option("CMAKE_BUILD_TYPE", "Release", "optimised code"),
    Option("BUILD_SHARED_LIBS", "OFF", "one file to install, with nothing to find at run time"),
    Option("LLAMA_BUILD_TESTS", "OFF", "only llama-server is wanted"),
    Option("LLAMA_BUILD_EXAMPLES", "OFF", "only llama-server is wanted"),
    Option("LLAMA_OPENSSL", "OFF", "it listens on a private socket; TLS is the front's"),
    Option("LLAMA_USE_PREBUILT_UI", "OFF", "a build downloads nothing but the verified source"),
    Option("LLAMA_BUILD_NUMBER", "0", "else taken from whatever git repository surrounds the tree"),
    Option("GGML_CCACHE", "OFF", "a cache of this machine's must not change what is built"),
)


def options_for(backend: Backend, *, pin: Pin, machine: str) -> tuple[Option, ...]:
    """All CMake options; which ones does not depend on the compiler."""
    return (
        *COMMON,
        Option("LLAMA_BUILD_COMMIT", pin.commit[:12], "else taken from whatever git repository surrounds the tree"),
        *backend.options(machine),
    )


def make_plan(*, name: str, backend: Backend, pin: Pin, toolchain: Toolchain) -> BuildPlan:
    """The plan for one backend at the pin with one toolchain."""
    return BuildPlan(
        backend=name,
        commit=pin.commit,
        patches=pin.patches,
        options=options_for(backend, pin=pin, machine=toolchain.machine),
        compiler=toolchain.compiler,
        compiler_paths=(str(toolchain.cc), str(toolchain.cxx)),
        cpu=toolchain.cpu,
    )
