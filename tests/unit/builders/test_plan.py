"""The build plan: a pure value with a key, for machines of every kind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.unit.builders import machines
from tests.unit.builders.goldens import FOLDER, cases, text_of
from tests.unit.builders.machines import CARDS, LINUX, LINUX_ARM64, MAC, NONE, PIN, WINDOWS, driver, gcc, with_gpu

from runner_builders.auto import choose_backend
from runner_builders.backends import BACKENDS, cpu, cuda, metal
from runner_builders.backends.cuda import parse_architectures
from runner_builders.errors import BuilderError, ToolchainError
from runner_builders.patches import Patch
from runner_builders.pin import Pin
from runner_builders.plan import Backend, BuildPlan, Wishes, jobs_for, make_plan, parse_options
from runner_builders.toolchain import Tool, Toolchain

CUDA_13 = machines.cuda(13, 0)
CCACHE = Tool(Path("/usr/bin/ccache"), "4.7.5")


def plan(
    toolchain: Toolchain = LINUX, *, backend: Backend = cpu, pin: Pin = PIN, wishes: Wishes | None = None
) -> BuildPlan:
    return make_plan(name="x", backend=backend, pin=pin, toolchain=toolchain, wishes=wishes or Wishes())


def values(built: BuildPlan) -> dict[str, str]:
    return {option.name: option.value for option in built.options}


@pytest.mark.parametrize("name", cases())
def test_the_golden_plan_of(name: str) -> None:
    written = (FOLDER / f"{name}.json").read_text()
    assert written == text_of(name), "if this was meant: python -m tests.unit.builders.goldens"


def test_no_golden_file_is_left_over() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(cases())


def test_every_option_has_a_reason_and_appears_once() -> None:
    for toolchain, backend, wishes in cases().values():
        name = choose_backend(toolchain).backend if backend == "auto" else backend
        try:
            options = plan(toolchain, backend=BACKENDS[name], wishes=wishes).options
        except ToolchainError:
            continue
        assert all(option.reason for option in options)
        assert len({option.name for option in options}) == len(options)


@pytest.mark.parametrize("toolchain", [MAC, LINUX_ARM64, WINDOWS])
def test_amx_is_left_out_only_where_a_compiler_might_put_it_in(toolchain: Toolchain) -> None:
    assert not [option.name for option in plan(toolchain).options if "AMX" in option.value]


def test_a_key_changes_with_what_goes_into_the_build_and_with_nothing_else() -> None:
    elsewhere = replace(gcc(12, 2, 0), cc=Path("/opt/cc"))
    keys = {
        plan().key,
        plan(pin=replace(PIN, commit="f" * 40)).key,
        plan(pin=replace(PIN, patches=())).key,
        plan(pin=replace(PIN, patches=(Patch("0001-first", b"--- a/y\n"),))).key,
        plan(replace(LINUX, compilers=gcc(13, 1, 0))).key,
        plan(replace(LINUX, compilers=elsewhere)).key,
        plan(replace(LINUX, host=replace(LINUX.host, cpu="x86_64-ba9876543210"))).key,
        plan(wishes=Wishes(portable=True)).key,
        plan(wishes=Wishes(options=(("GGML_OPENMP", "ON"),))).key,
    }
    assert len(keys) == 9
    tools = replace(LINUX.tools, cmake=Tool(Path("/elsewhere/cmake"), "4.2"), launcher=CCACHE)
    assert plan(replace(LINUX, tools=tools)).key == plan().key


def test_a_newer_nvcc_in_the_same_place_is_another_build() -> None:
    newer = replace(CUDA_13, version=(13, 0, 88))
    keys = [plan(with_gpu(CARDS[0], toolkit=toolkit), backend=cuda).key for toolkit in (CUDA_13, newer)]
    assert keys[0] != keys[1]


def test_a_portable_build_is_the_same_on_every_processor_of_a_type() -> None:
    other = replace(LINUX, host=replace(LINUX.host, cpu="x86_64-ba9876543210"))
    portable = Wishes(portable=True)
    assert plan(wishes=portable).key == plan(other, wishes=portable).key


def test_a_compiler_cache_is_used_for_every_language_and_is_no_option_of_the_build() -> None:
    machine = with_gpu(CARDS[0], toolkit=CUDA_13, machine=replace(LINUX, tools=replace(LINUX.tools, launcher=CCACHE)))
    built = plan(machine, backend=cuda)
    launchers = [f"-DCMAKE_{language}_COMPILER_LAUNCHER=/usr/bin/ccache" for language in ("C", "CXX", "CUDA")]
    assert built.cmake_arguments[-3:] == launchers
    assert not [name for name in values(built) if "LAUNCHER" in name]


def test_options_that_are_asked_for_win_in_place_and_are_known_as_such() -> None:
    asked = plan(wishes=Wishes(options=(("GGML_OPENMP", "ON"), ("GGML_BLAS", "ON"), ("GGML_BLAS", "OFF"))))
    assert [option.name for option in asked.options] == [*(option.name for option in plan().options), "GGML_BLAS"]
    assert asked.asked == {"GGML_OPENMP": "ON", "GGML_BLAS": "OFF"}
    assert values(asked)["GGML_OPENMP"] == "ON"


@pytest.mark.parametrize("text", ["GGML_CUDA", "=ON", "PATH=/", "GGML_X Y=1", "-DGGML_CUDA=ON"])
def test_an_option_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BuilderError, match=r"--option .* is not understood; write NAME=VALUE"):
        parse_options([text])


def test_an_option_may_have_any_value() -> None:
    assert parse_options(["CMAKE_CXX_FLAGS=-O2 -DX=1", "CUDAToolkit_ROOT="]) == (
        ("CMAKE_CXX_FLAGS", "-O2 -DX=1"),
        ("CUDAToolkit_ROOT", ""),
    )


def test_without_a_compiler_the_plan_says_what_to_do() -> None:
    with pytest.raises(ToolchainError, match="not here; get one"):
        plan(replace(LINUX, compilers=NONE))


def test_jobs_are_bound_by_processors_and_by_memory() -> None:
    host = replace(LINUX.host, processors=8, memory_bytes=4_000_000_000)
    assert [jobs_for(host, size) for size in (100, 750_000_000, 9_000_000_000)] == [8, 5, 1]


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (
            Wishes(arch=("pentium",)),
            "--arch pentium is no processor of type x86_64; name native or one of",
        ),
        (
            Wishes(arch=("x86-64-v3",), portable=True),
            "--portable builds for every processor and --arch for one",
        ),
    ],
)
def test_a_processor_that_makes_no_sense_is_refused(wishes: Wishes, message: str) -> None:
    with pytest.raises(BuilderError, match=message):
        plan(wishes=wishes)


def test_a_kind_of_arm_processor_is_handed_on() -> None:
    assert values(plan(LINUX_ARM64, wishes=Wishes(arch=("armv8.2-a+dotprod",))))["GGML_CPU_ARM_ARCH"] == (
        "armv8.2-a+dotprod"
    )


def test_metal_is_for_arm64_or_for_both_kinds_of_mac() -> None:
    with pytest.raises(BuilderError, match="--arch riscv is no Mac's; choose arm64, or arm64 and x86_64"):
        plan(MAC, backend=metal, wishes=Wishes(arch=("riscv",)))
    assert "CMAKE_OSX_ARCHITECTURES" not in values(plan(MAC, backend=metal, wishes=Wishes(arch=("arm64",))))


def test_every_way_to_write_a_gpu_architecture_is_understood() -> None:
    assert parse_architectures(("sm_90", "compute_75", "8.6", "120", "90")) == (75, 86, 90, 120)
    with pytest.raises(BuilderError, match=r"--arch ampere is no GPU architecture; write sm_90, 90, 9.0 or native"):
        parse_architectures(("ampere",))


def test_architectures_that_are_named_need_no_gpu() -> None:
    machine = replace(LINUX, cuda=CUDA_13)
    assert values(plan(machine, backend=cuda, wishes=Wishes(arch=("sm_90",))))["CMAKE_CUDA_ARCHITECTURES"] == "90"
    with pytest.raises(ToolchainError, match="--arch native needs a GPU, and none is seen here"):
        plan(machine, backend=cuda, wishes=Wishes(arch=("native",)))


def test_an_architecture_that_nobody_knows_is_refused_with_those_that_nvcc_knows() -> None:
    with pytest.raises(ToolchainError, match=r"CUDA 13.0 does not compile for sm_99, only for sm_75, sm_80"):
        plan(replace(LINUX, cuda=CUDA_13), backend=cuda, wishes=Wishes(arch=("99",)))


def test_who_names_architectures_for_cmake_answers_for_them() -> None:
    asked = Wishes(options=(("CMAKE_CUDA_ARCHITECTURES", "61-virtual"),))
    built = plan(with_gpu(machines.GTX_1080, toolkit=CUDA_13), backend=cuda, wishes=asked)
    assert values(built)["CMAKE_CUDA_ARCHITECTURES"] == "61-virtual"


def test_another_host_compiler_for_nvcc_is_taken_without_question() -> None:
    machine = replace(with_gpu(CARDS[0], toolkit=machines.cuda(12, 8)), compilers=gcc(15, 1, 0))
    asked = Wishes(options=(("CMAKE_CUDA_HOST_COMPILER", "g++-14"),))
    assert values(plan(machine, backend=cuda, wishes=asked))["CMAKE_CUDA_HOST_COMPILER"] == "g++-14"


def test_a_new_visual_studio_is_refused_by_its_compilers_version() -> None:
    toolkit = machines.windows_cuda(12, 4)
    machine = with_gpu(CARDS[0], toolkit=toolkit, machine=WINDOWS)
    with pytest.raises(
        ToolchainError, match=r"does not take msvc 19.44.35207: .* is msvc before 19.40; .*=path/to/cl"
    ):
        plan(machine, backend=cuda)


def test_a_driver_of_the_same_major_version_runs_what_a_newer_toolkit_makes() -> None:
    machine = replace(LINUX, cuda=machines.cuda(12, 8), driver=driver(12, 2, gpus=(CARDS[0],)))
    assert plan(machine, backend=cuda).device_present


def test_cublas_comes_from_where_it_is_asked_to_come_from() -> None:
    machine = with_gpu(CARDS[0], toolkit=CUDA_13)
    assert not plan(machine, backend=cuda, wishes=Wishes(cuda_libs="toolkit")).wheels
    assert plan(machine, backend=cuda, wishes=Wishes(cuda_libs="wheel")).wheels
    without = with_gpu(CARDS[0], toolkit=machines.cuda(13, 0, cublas=False))
    with pytest.raises(ToolchainError, match=r"has no cuBLAS for development; install it .*libcublas-dev-13-0"):
        plan(without, backend=cuda, wishes=Wishes(cuda_libs="toolkit"))


def test_a_wheel_is_not_promised_where_none_is_known() -> None:
    machine = with_gpu(CARDS[0], toolkit=machines.windows_cuda(13, 0), machine=WINDOWS)
    with pytest.raises(ToolchainError, match=r"no cuBLAS wheel is known for CUDA 13.0 on win32"):
        plan(machine, backend=cuda, wishes=Wishes(cuda_libs="wheel"))


def test_a_gpu_without_a_toolkit_is_named_when_the_processor_is_chosen() -> None:
    choice = choose_backend(replace(LINUX, driver=driver(13, 0, gpus=(CARDS[0],))))
    assert (choice.backend, choice.reason) == ("cpu", "there is an NVIDIA GPU (Tesla T4), but not here; get one")


def test_hip_takes_the_names_that_rocm_uses() -> None:
    machine = replace(LINUX, tools=replace(LINUX.tools, hipcc=Tool(Path("/opt/rocm/bin/hipcc"), "6.3")))
    with pytest.raises(BuilderError, match="--arch sm_90 is no GPU of AMD's"):
        plan(machine, backend=BACKENDS["hip"], wishes=Wishes(arch=("sm_90",)))
