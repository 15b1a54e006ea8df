"""What `check` makes of what it finds: how it stands, and what to do."""

from __future__ import annotations

import resource
import shutil
import socket
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from runner_supervisor import doctor
from runner_supervisor.doctor import Finding, Level
from runner_supervisor.engine.binary import EngineBinary
from runner_supervisor.errors import ConfigError, EngineError, RunnerError
from runner_supervisor.layout import Layout
from runner_supervisor.settings import Settings

Usage = namedtuple("Usage", "total used free")
NO_BUILD = EngineError("no build is in use; run `runner-supervisor build`")


def machine_has(cache: Path, *, compilers: bool = True, best: str = "cpu") -> dict[str, Any]:
    """What the builder says of a machine."""
    why = "no C++ compiler found; install one: apt install g++"
    part = {"present": True, "words": "c++ 12"} if compilers else {"present": False, "words": why}
    return {
        "cache": str(cache),
        "found": {"compilers": part, "hipcc": {"present": False, "words": "no hipcc found; install ROCm"}},
        "auto": {"backend": best, "reason": "a GPU is here"},
        "backends": {"cpu": {"can_build": True} if compilers else {"can_build": False, "why": why}},
    }


def by_name(findings: Any) -> dict[str, Finding]:
    return {each.what: each for each in findings}


def examine(settings: Settings, in_use: str | RunnerError, has: dict[str, Any]) -> doctor.Examination:
    binary = EngineBinary(Path("no-such-file"), backend=in_use, commit="abc") if isinstance(in_use, str) else in_use
    return doctor.examine(lambda: settings, in_use=binary, machine_has=has)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(state_dir=tmp_path / "state", port=0)


def test_a_machine_with_all_that_is_needed_works(settings: Settings, tmp_path: Path) -> None:
    found = examine(settings, "cpu", machine_has(tmp_path))
    assert found.works
    assert [each.level for each in found.findings] == [Level.OK] * len(found.findings)
    assert found.sizing
    assert found.sizing.fit.fits


def test_without_a_build_a_compiler_will_do(settings: Settings, tmp_path: Path) -> None:
    found = examine(settings, NO_BUILD, machine_has(tmp_path))
    assert found.works
    assert by_name(found.findings)["llama-server"] == Finding(
        "llama-server", Level.WARN, "no build is in use", "run `runner-supervisor build`"
    )


def test_without_build_and_compiler_nothing_starts(settings: Settings, tmp_path: Path) -> None:
    found = examine(settings, NO_BUILD, machine_has(tmp_path, compilers=False))
    assert not found.works
    failed = by_name(found.findings)["compilers"]
    assert (failed.level, failed.advice) == (Level.FAIL, "install one: apt install g++")


def test_a_compiler_that_is_missing_is_no_matter_where_there_is_a_build(settings: Settings, tmp_path: Path) -> None:
    found = examine(settings, "cpu", machine_has(tmp_path, compilers=False))
    assert found.works
    assert by_name(found.findings)["compilers"].level is Level.WARN


def test_a_build_for_gpus_that_sees_none_is_pointed_out(settings: Settings, tmp_path: Path) -> None:
    found = examine(settings, "cuda", machine_has(tmp_path, best="cuda"))
    assert [each.what for each in found.findings if each.level is Level.FAIL] == ["GPU in use"]


def test_a_gpu_that_lies_idle_is_pointed_out(settings: Settings, tmp_path: Path) -> None:
    idle = by_name(examine(settings, "cpu", machine_has(tmp_path, best="cuda")).findings)["GPU"]
    assert (idle.level, "--backend cuda" in idle.advice) == (Level.WARN, True)
    used = by_name(examine(settings, "cuda", machine_has(tmp_path, best="cuda")).findings)["GPU"]
    assert (used.level, used.found) == (Level.OK, "a GPU is here")


def test_settings_that_are_wrong_are_one_finding_among_others(tmp_path: Path) -> None:
    def load() -> Settings:
        raise ConfigError("unknown setting prot; did you mean port?")

    found = doctor.examine(load, in_use="cpu", machine_has=machine_has(tmp_path))
    assert not found.works
    assert found.sizing is None
    assert by_name(found.findings)["settings"].found == "unknown setting prot"


def test_a_port_that_is_taken_fails(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = Settings(state_dir=tmp_path / "state", port=taken.getsockname()[1])
        found = by_name(doctor.service(settings, Layout(settings.state_dir)))["address"]
    assert (found.level, found.advice) == (Level.FAIL, "choose another with --host or --port")


def test_a_key_file_and_a_certificate_that_are_not_there_fail(tmp_path: Path) -> None:
    none = tmp_path / "none"
    settings = Settings(state_dir=tmp_path / "state", port=0, api_keys_file=none, tls_cert=none, tls_key=none)
    found = by_name(doctor.service(settings, Layout(settings.state_dir)))
    assert (found["keys"].level, found["certificate"].level) == (Level.FAIL, Level.FAIL)


def test_what_traces_need_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(state_dir=tmp_path / "state", port=0, traces_url="http://127.0.0.1:4318")
    found = by_name(doctor.service(settings, Layout(settings.state_dir)))["traces"]
    assert (found.level, found.found) == (Level.OK, "to http://127.0.0.1:4318")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    failed = by_name(doctor.service(settings, Layout(settings.state_dir)))["traces"]
    assert (failed.level, failed.advice) == (Level.FAIL, "look at the environment's OTEL_* variables")


def test_a_model_that_is_none_fails(settings: Settings, tmp_path: Path) -> None:
    no_model = settings.model_copy(update={"model": tmp_path / "none.gguf"})
    failed = by_name(examine(no_model, "cpu", machine_has(tmp_path)).findings)["model"]
    assert (failed.level, failed.advice) == (Level.FAIL, "give a GGUF file with --model or RUNNER_MODEL")


@pytest.mark.parametrize(
    ("settings", "keys"),
    [
        ({}, "none, and none needed on a loopback address"),
        ({"host": "0.0.0.0"}, "none yet: the start makes one"),
        ({"host": "0.0.0.0", "insecure_no_auth": True}, "none needed, as insecure_no_auth says"),
        ({"api_keys": "a,b"}, "2 given in api_keys"),
    ],
)
def test_what_keys_there_are_is_said(tmp_path: Path, settings: dict[str, Any], keys: str) -> None:
    made = Settings(state_dir=tmp_path / "state", port=0, **settings)
    assert by_name(doctor.service(made, Layout(made.state_dir)))["keys"].found == keys


def test_a_disk_that_is_nearly_full_is_warned_of(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1, 1, 1000))
    found = by_name(examine(settings, NO_BUILD, machine_has(tmp_path)).findings)
    assert {found["disk for logs"].level, found["disk for a build"].level} == {Level.WARN}


def test_few_open_files_are_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 256))
    assert by_name(doctor.machine())["open files"].level is Level.WARN


def test_nothing_is_made_by_looking(settings: Settings, tmp_path: Path) -> None:
    examine(settings, NO_BUILD, machine_has(tmp_path / "cache"))
    assert list(tmp_path.iterdir()) == []
