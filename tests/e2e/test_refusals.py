"""Starts that cannot succeed: exit code not 0, one clear line that says what to do, no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

import pytest
from tests.e2e.conftest import COMMAND, END_TIMEOUT_S, Supervisor

from runner_supervisor.planning import demo_model

CONFIG = 78


def start(
    state_dir: Path, *arguments: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, "start", "--state-dir", str(state_dir), *arguments],
        capture_output=True,
        text=True,
        timeout=END_TIMEOUT_S,
        env=os.environ | (environment or {}),
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of error, after whatever the log said."""
    assert done.returncode == CONFIG, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert done.stderr.splitlines()[-1] == errors[0]
    return errors[0]


def test_a_missing_model_file(short_dir: Path) -> None:
    line = refusal(start(short_dir, "--model", "/nowhere/model.gguf"))
    assert line == ("error: no model file at /nowhere/model.gguf; give a GGUF file with --model or RUNNER_MODEL")


def test_a_file_that_is_no_gguf(short_dir: Path) -> None:
    (short_dir / "notes.txt").write_text("not a model")
    line = refusal(start(short_dir / "state", "--model", str(short_dir / "notes.txt")))
    assert "is not a GGUF file" in line
    assert "--model" in line


def test_a_gguf_that_is_cut_short(short_dir: Path) -> None:
    (short_dir / "broken.gguf").write_bytes(demo_model().read_bytes()[:100_000])
    line = refusal(start(short_dir / "state", "--port", "0", "--model", str(short_dir / "broken.gguf")))
    assert "broken.gguf" in line


def test_a_gguf_that_the_engine_cannot_load(short_dir: Path, engine_build: Path) -> None:
    assert engine_build.exists()
    (short_dir / "strange.gguf").write_bytes(demo_model().read_bytes().replace(b"llama", b"lloma"))
    line = refusal(start(short_dir / "state", "--port", "0", "--model", str(short_dir / "strange.gguf")))
    assert "exit code 1 (config); it said: " in line
    assert "unknown model architecture" in line
    assert "engine.log" in line


def test_a_flag_that_the_engine_does_not_know(short_dir: Path, engine_build: Path) -> None:
    assert engine_build.exists()
    line = refusal(start(short_dir / "state", "--port", "0", "--", "--no-such-flag"))
    assert "--no-such-flag" in line


def test_a_busy_port(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refusal(start(short_dir, "--port", str(port)))
    assert line == (
        f"error: cannot listen on 127.0.0.1:{port}: Address already in use; choose another with --host or --port"
    )


@pytest.mark.parametrize(
    ("environment", "toml", "expected"),
    [
        ({"RUNNER_PROT": "1"}, "", "unknown setting RUNNER_PROT in the environment; did you mean RUNNER_PORT?"),
        ({"RUNNER_PORT": "many"}, "", "bad setting RUNNER_PORT in the environment: "),
        ({}, "prot = 1\n", "unknown setting prot in "),
        ({}, "port = 'many'\n", "bad setting port in "),
        ({}, "port = \n", " is not valid TOML: "),
    ],
)
def test_a_bad_setting(short_dir: Path, environment: dict[str, str], toml: str, expected: str) -> None:
    config = short_dir / "config.toml"
    config.write_text(toml)
    line = refusal(start(short_dir / "state", "--config", str(config), environment=environment))
    assert expected in line


def test_a_flag_that_belongs_to_the_supervisor(short_dir: Path) -> None:
    line = refusal(start(short_dir / "state", "--", "--api-prefix", "/x"))
    assert "--api-prefix is the supervisor's" in line


def test_a_second_supervisor_on_one_state_folder(service: Supervisor) -> None:
    done = start(service.state_dir, "--port", "0")
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: process {service.process.pid} runs on {service.state_dir}")


def test_a_prebuilt_folder_without_a_server(short_dir: Path) -> None:
    done = start(short_dir / "state", "--port", "0", environment={"LLAMA_CPP_DIR": str(short_dir)})
    assert done.returncode == 78
    assert "holds no executable llama-server (looked for llama-server, bin/llama-server" in done.stderr
    assert "Traceback" not in done.stderr
