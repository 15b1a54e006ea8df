"""Verifying a llama-server, by a script in its place: the devices it must see, and nothing left of it."""

from __future__ import annotations

import sys
from pathlib import Path

import psutil
import pytest
from tests.component.build_rig import FAKE

from runner_builders.errors import VerifyError
from runner_builders.verify import Golden, Goldens, devices_of, verify

H100 = "  CUDA0: NVIDIA H100 80GB HBM3 (81079 MiB, 80540 MiB free)"


@pytest.fixture
def goldens(tmp_path: Path) -> Goldens:
    (tmp_path / "demo.gguf").touch()
    return Goldens(tmp_path / "demo.gguf", (Golden(({"role": "user", "content": "Hello!"},), 4, "fine"),))


def server(folder: Path, devices: str) -> Path:
    """A llama-server that sees these devices."""
    path = folder / "llama-server"
    listing = f'printf "Available devices:\\n{devices}\\n"'
    serving = f'exec {sys.executable} {FAKE} --answer fine "$@"'
    path.write_text(
        f'#!/bin/sh\ncase "$1" in --version) echo version: 1;; --list-devices) {listing};; *) {serving};; esac\n'
    )
    path.chmod(0o755)
    return path


def test_what_it_shows_of_itself_is_told(tmp_path: Path, goldens: Goldens) -> None:
    said: list[str] = []
    found = verify(server(tmp_path, H100), goldens=goldens, promised="CUDA", gpu_present=True, say=said.append)
    assert (found.version, found.devices) == ("version: 1", ("CUDA0: NVIDIA H100 80GB HBM3",))
    assert (found.goldens, found.notices, said) == (1, (), [])
    assert not [one for one in psutil.process_iter(["cmdline"]) if str(goldens.model) in (one.info["cmdline"] or [])]


def test_a_build_that_sees_no_gpu_on_a_machine_with_one_is_refused(tmp_path: Path, goldens: Goldens) -> None:
    binary = server(tmp_path, "  Vulkan0: llvmpipe (1024 MiB, 1024 MiB free)")
    with pytest.raises(VerifyError, match="sees no CUDA device though this machine has one: it would compute on the"):
        verify(binary, goldens=goldens, promised="CUDA", gpu_present=True, say=lambda _: None)


def test_a_build_that_sees_no_gpu_on_a_machine_without_one_is_let_pass_with_a_notice(
    tmp_path: Path, goldens: Goldens
) -> None:
    said: list[str] = []
    found = verify(server(tmp_path, "  (none)"), goldens=goldens, promised="CUDA", gpu_present=False, say=said.append)
    assert said == ["no CUDA device here to try it on: it was verified on the processor"]
    assert found.notices == tuple(said)


def test_flags_from_the_environment_do_not_reach_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_ARG_DEVICE", "none")
    assert devices_of(server(tmp_path, "  D: $LLAMA_ARG_DEVICE$GGML_NO_BACKTRACE (1 MiB)")) == ("D: 1",)


def test_a_model_that_does_not_load_in_time_is_refused(
    tmp_path: Path, goldens: Goldens, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner_builders.verify.LOAD_TIMEOUT_S", 0.1)
    binary = server(tmp_path, "")
    binary.write_text(binary.read_text().replace("--answer fine", "--never-ready"))
    with pytest.raises(VerifyError, match="did not load the demo model within"):
        verify(binary, goldens=goldens, promised="", gpu_present=False, say=lambda _: None)
