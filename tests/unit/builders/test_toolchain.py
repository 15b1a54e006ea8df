"""What a machine has to build with."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner_builders.errors import ToolchainError
from runner_builders.toolchain import cpu_identity, detect


def test_this_machine_has_a_compiler_and_the_packaged_tools() -> None:
    toolchain = detect()
    assert toolchain.cxx.is_absolute()
    assert toolchain.compiler
    assert toolchain.cmake.name == "cmake"
    assert toolchain.ninja.name == "ninja"
    assert toolchain.cpu == cpu_identity()


def test_cxx_names_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = detect().cxx
    monkeypatch.setenv("CXX", str(compiler))
    assert detect().cxx == compiler


def test_no_compiler_says_what_was_looked_for_and_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"no C/C\+\+ compiler found \(looked for cc, gcc, clang\); install"):
        detect()


def test_a_named_compiler_that_is_missing_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "/no/such/cc")
    with pytest.raises(ToolchainError, match="CC=/no/such/cc"):
        detect()
