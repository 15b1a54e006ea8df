"""What a machine has to build with."""

from __future__ import annotations

import sys
from pathlib import Path

import pynvml
import pytest

from runner_builders.toolchain import Compilers, Cuda, Driver, Gpu, Missing, cpu_identity, detect
from runner_builders.toolchain.detect import detect_apple, detect_compilers, identify
from runner_builders.toolchain.nvidia import detect_cuda, detect_driver

NVCC = """#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release 12.8, V12.8.61";;
--list-gpu-arch) printf "compute_89\\ncompute_90\\n";;
--dryrun) echo "#$ TOP={root}/bin/.." >&2;;
esac
"""
HOST_CONFIG = """
#if __GNUC__ > 14
#error -- unsupported GNU version!
#if (__clang_major__ >= 20) || (__clang_major__ < 3)
#if _MSC_VER < 1910 || _MSC_VER >= 1950
"""


def program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "toolkit"
    program(root / "bin" / "nvcc", NVCC.format(root=root))
    monkeypatch.setenv("CUDACXX", str(root / "bin" / "nvcc"))
    return root


def test_this_machine_has_a_compiler_and_the_packaged_tools() -> None:
    toolchain = detect()
    assert toolchain.cxx.is_absolute()
    assert isinstance(toolchain.compilers, Compilers)
    assert toolchain.compilers.version
    assert (toolchain.cmake.name, toolchain.ninja.name) == ("cmake", "ninja")
    assert toolchain.host.cpu == cpu_identity()
    assert toolchain.host.processors
    assert toolchain.host.memory_bytes


def test_tools_that_were_left_out_are_missing_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmake", None)
    monkeypatch.setitem(sys.modules, "ninja", None)
    monkeypatch.setenv("PATH", "")
    assert isinstance(detect().tools.cmake, Missing)
    assert isinstance(detect().tools.ninja, Missing)


def test_cxx_names_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = detect().cxx
    monkeypatch.setenv("CXX", str(compiler))
    assert detect().cxx == compiler


def test_no_compiler_says_what_was_looked_for_and_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    missing = detect_compilers()
    assert isinstance(missing, Missing)
    assert missing.why.startswith("no C/C++ compiler found (looked for cc, gcc, clang); install one")


def test_a_named_compiler_that_is_missing_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/cc")
    missing = detect_compilers()
    assert isinstance(missing, Missing)
    assert "CC=/no/such/cc" in missing.why


def test_a_compiler_that_does_not_run_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CXX", str(program(tmp_path / "c++", "#!/bin/sh\necho broken; exit 1\n")))
    missing = detect_compilers()
    assert isinstance(missing, Missing)
    assert missing.why == f"{tmp_path}/c++ --version failed: broken; repair it or name another with CXX"


@pytest.mark.parametrize(
    ("text", "kind", "version"),
    [
        ("c++ (Debian 12.2.0-14+deb12u1) 12.2.0", "gcc", (12, 2, 0)),
        ("gcc (GCC) 15.1.1 20250425 (Red Hat 15.1.1-1)", "gcc", (15, 1, 1)),
        ("g++-14 (Ubuntu 14.2.0-4ubuntu2) 14.2.0", "gcc", (14, 2, 0)),
        ("Ubuntu clang version 18.1.3 (1ubuntu1)", "clang", (18, 1, 3)),
        ("Apple clang version 16.0.0 (clang-1600.0.26.6)", "apple-clang", (16, 0, 0)),
        ("Microsoft (R) C/C++ Optimizing Compiler Version 19.44.35207 for x64", "msvc", (19, 44, 35207)),
        ("something else", "gcc", ()),
    ],
)
def test_compilers_are_told_apart(text: str, kind: str, version: tuple[int, ...]) -> None:
    assert identify([text]) == (kind, version)


def test_a_toolkit_says_what_it_compiles_for_and_with(toolkit: Path) -> None:
    header = toolkit / "targets" / "x86_64-linux" / "include" / "crt" / "host_config.h"
    header.parent.mkdir(parents=True)
    header.write_text(HOST_CONFIG)
    library = toolkit / "lib64"
    library.mkdir()
    for name in ("libcublas.so", "libcudart_static.a"):
        (library / name).touch()
    assert detect_cuda() == Cuda(
        root=toolkit,
        nvcc=toolkit / "bin" / "nvcc",
        version=(12, 8, 61),
        architectures=(89, 90),
        refused_hosts={"gcc": (15,), "clang": (20,), "msvc": (19, 50)},
        static_runtime=library / "libcudart_static.a",
        cublas=library / "libcublas.so",
    )


def test_a_script_that_calls_nvcc_leads_to_its_toolkit(
    toolkit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = program(tmp_path / "elsewhere" / "nvcc", f'#!/bin/sh\nexec {toolkit}/bin/nvcc "$@"\n')
    monkeypatch.setenv("CUDACXX", str(script))
    found = detect_cuda()
    assert isinstance(found, Cuda)
    assert (found.root, found.nvcc) == (toolkit, toolkit / "bin" / "nvcc")


def test_a_toolkit_that_is_named_and_missing_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDACXX", "/no/such/nvcc")
    assert detect_cuda() == Missing(
        "no CUDA toolkit found (looked for CUDACXX=/no/such/nvcc); install one, or name its nvcc with CUDACXX"
    )


def test_an_nvcc_that_does_not_run_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDACXX", str(program(tmp_path / "nvcc", "#!/bin/sh\necho no cicc; exit 1\n")))
    assert detect_cuda() == Missing(
        f"{tmp_path}/nvcc --version failed: no cicc; repair it or name another with CUDACXX"
    )


def _fail(*_: object) -> None:
    raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)


def test_a_driver_names_its_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlSystemGetDriverVersion": "580.65.06",
        "nvmlSystemGetCudaDriverVersion_v2": 13010,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": "card",
        "nvmlDeviceGetName": "NVIDIA H100",
        "nvmlDeviceGetCudaComputeCapability": (9, 0),
    }
    for name, answer in answers.items():
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)
    assert detect_driver() == Driver(version="580.65.06", cuda=(13, 1), gpus=(Gpu("NVIDIA H100", 90),))


def test_no_driver_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", _fail)
    missing = detect_driver()
    assert isinstance(missing, Missing)
    assert missing.why.startswith("no NVIDIA driver found (Driver Not Loaded)")


def test_a_driver_that_stops_answering_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion_v2", _fail)
    missing = detect_driver()
    assert isinstance(missing, Missing)
    assert missing.why.startswith("NVIDIA's driver does not answer")


def test_apples_tools_are_asked_of_xcrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    missing = detect_apple()
    assert isinstance(missing, Missing)
    assert "xcode-select --install" in missing.why
    program(tmp_path / "xcrun", '#!/bin/sh\n[ "$*" = "--sdk macosx --show-sdk-version" ] && echo 15.2\n')
    codesign = program(tmp_path / "codesign", "#!/bin/sh\n")
    found = detect_apple()
    assert not isinstance(found, Missing)
    assert (found.sdk, found.codesign) == ("15.2", codesign)
