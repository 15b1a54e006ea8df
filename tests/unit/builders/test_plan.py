"""The build plan: a pure value with a key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runner_builders.backends import BACKENDS, cpu
from runner_builders.patches import Patch
from runner_builders.pin import Pin
from runner_builders.plan import BuildPlan, make_plan
from runner_builders.toolchain import Toolchain

LINUX = Toolchain(
    machine="x86_64",
    cpu="x86_64-0123456789ab",
    cc=Path("/usr/bin/cc"),
    cxx=Path("/usr/bin/c++"),
    compiler="c++ (Debian 12.2.0) 12.2.0",
    cmake=Path("/usr/bin/cmake"),
    ninja=Path("/usr/bin/ninja"),
)
COMMIT = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"
PIN = Pin(
    commit=COMMIT,
    git="https://example.org/llama.cpp",
    sdist=None,
    patches=(Patch("0001-first", b"--- a/x\n"),),
)


def plan(toolchain: Toolchain = LINUX, pin: Pin = PIN) -> BuildPlan:
    return make_plan(name="cpu", backend=cpu, pin=pin, toolchain=toolchain)


def test_the_golden_plan_for_linux_on_the_cpu() -> None:
    assert plan().cmake_arguments == [
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_SHARED_LIBS=OFF",
        "-DLLAMA_BUILD_TESTS=OFF",
        "-DLLAMA_BUILD_EXAMPLES=OFF",
        "-DLLAMA_OPENSSL=OFF",
        "-DLLAMA_USE_PREBUILT_UI=OFF",
        "-DLLAMA_BUILD_NUMBER=0",
        "-DGGML_CCACHE=OFF",
        "-DLLAMA_BUILD_COMMIT=0c1e57098bba",
        "-DGGML_NATIVE=ON",
        "-DGGML_OPENMP=OFF",
        "-DCMAKE_C_FLAGS_INIT=-U__AMX_INT8__",
        "-DCMAKE_CXX_FLAGS_INIT=-U__AMX_INT8__",
    ]


@pytest.mark.parametrize("machine", ["arm64", "aarch64", "AMD64"])
def test_amx_is_left_out_only_where_a_compiler_might_put_it_in(machine: str) -> None:
    amx = [option.name for option in plan(replace(LINUX, machine=machine)).options if "AMX" in option.value]
    assert amx == []


def test_every_option_has_a_reason() -> None:
    assert all(option.reason for option in plan().options)


def test_a_key_changes_with_what_goes_into_the_build_and_with_nothing_else() -> None:
    keys = {
        plan().key,
        plan(pin=replace(PIN, commit="f" * 40)).key,
        plan(pin=replace(PIN, patches=())).key,
        plan(pin=replace(PIN, patches=(Patch("0001-first", b"--- a/y\n"),))).key,
        plan(replace(LINUX, compiler="c++ 13")).key,
        plan(replace(LINUX, cc=Path("/opt/cc"))).key,
        plan(replace(LINUX, cpu="x86_64-ba9876543210")).key,
    }
    assert len(keys) == 7
    assert plan(replace(LINUX, cmake=Path("/elsewhere/cmake"))).key == plan().key


@pytest.mark.parametrize("name", BACKENDS)
def test_backends_give_options(name: str) -> None:
    assert BACKENDS[name].options(LINUX.machine)
