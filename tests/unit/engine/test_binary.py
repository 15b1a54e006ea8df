"""The builder's manifest, as the supervisor reads it: what is run is what was built."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from runner_supervisor.engine.binary import EngineBinary, read_manifest, require_gpu
from runner_supervisor.errors import ConfigError, EngineError

BINARY, LIBRARY = b"\x7fELF", b"library"
FILES = {"llama-server": hashlib.sha256(BINARY).hexdigest(), "libggml.so": hashlib.sha256(LIBRARY).hexdigest()}
FIELDS = {"schema": 3, "binary": "llama-server", "backend": "cpu", "commit": "abc", "files": FILES, "more": 1}


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A build's folder."""
    (tmp_path / "llama-server").write_bytes(BINARY)
    (tmp_path / "llama-server").chmod(0o755)
    (tmp_path / "libggml.so").write_bytes(LIBRARY)
    (tmp_path / "sbom.cdx.json").touch()
    (tmp_path / "manifest.json").write_text(json.dumps(FIELDS))
    return tmp_path


def test_the_binary_lies_beside_its_manifest(build: Path) -> None:
    expected = EngineBinary(path=build / "llama-server", backend="cpu", commit="abc", files=FILES)
    assert read_manifest(build / "manifest.json") == expected


def test_a_prebuilt_binary_lies_elsewhere(build: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prebuilt"
    folder.mkdir()
    binary = str(build / "llama-server")
    fields = FIELDS | {"binary": binary, "files": {binary: FILES["llama-server"]}}
    (folder / "manifest.json").write_text(json.dumps(fields))
    assert read_manifest(folder / "manifest.json").path == build / "llama-server"


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_refused(build: Path, name: str) -> None:
    content = bytearray((build / name).read_bytes())
    content[-1] ^= 1
    (build / name).write_bytes(content)
    with pytest.raises(
        EngineError, match=f"{re.escape(str(build / name))} is not what was built: the disk fails, or"
    ):
        read_manifest(build / "manifest.json")


def test_a_library_that_was_put_beside_it_is_refused(build: Path) -> None:
    (build / "libggml-cpu-better.so").touch()
    with pytest.raises(EngineError, match=r"libggml-cpu-better.so is not what was built"):
        read_manifest(build / "manifest.json")


@pytest.mark.parametrize("text", [None, "no json", "[]", "{}", json.dumps(FIELDS | {"schema": 2})])
def test_what_cannot_be_used_is_refused_with_a_way_out(build: Path, text: str | None) -> None:
    (build / "manifest.json").unlink()
    if text is not None:
        (build / "manifest.json").write_text(text)
    with pytest.raises(EngineError, match="run `runner-supervisor build`"):
        read_manifest(build / "manifest.json")


def test_a_missing_file_is_refused_with_a_way_out(build: Path) -> None:
    (build / "libggml.so").unlink()
    with pytest.raises(EngineError, match="run `runner-supervisor build`"):
        read_manifest(build / "manifest.json")


def test_a_binary_that_may_not_be_run_is_refused(build: Path) -> None:
    (build / "llama-server").chmod(0o644)
    with pytest.raises(EngineError, match="no executable llama-server"):
        read_manifest(build / "manifest.json")


def listing(tmp_path: Path, lines: str) -> EngineBinary:
    """A llama-server built for CUDA whose `--list-devices` says this."""
    script = tmp_path / "llama-server"
    script.write_text(f"#!/bin/sh\ncat <<'END'\n{lines}\nEND\n")
    script.chmod(0o755)
    return EngineBinary(path=script, backend="cuda", commit="abc")


def test_a_build_for_gpus_that_sees_one_is_fine(tmp_path: Path) -> None:
    require_gpu(listing(tmp_path, "Available devices:\n  CUDA0: NVIDIA H100 (81559 MiB, 80000 MiB free)"))


def test_a_build_for_gpus_that_sees_none_is_refused_with_its_reason(tmp_path: Path) -> None:
    reason = "ggml_cuda_init: failed to initialize CUDA: CUDA driver version is insufficient for CUDA runtime version"
    with pytest.raises(ConfigError, match=f"{reason};.*--gpus all.*RUNNER_ALLOW_CPU=1"):
        require_gpu(listing(tmp_path, f"{reason}\nAvailable devices:"))


def test_a_build_for_the_processor_is_not_asked_for_gpus(tmp_path: Path) -> None:
    require_gpu(EngineBinary(path=tmp_path / "no-such-file", backend="cpu", commit="abc"))


def test_a_build_for_gpus_that_does_not_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="--list-devices fails"):
        require_gpu(EngineBinary(path=tmp_path / "no-such-file", backend="cuda", commit="abc"))
