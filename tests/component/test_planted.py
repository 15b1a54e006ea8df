"""Links planted under the names of our files: refused or replaced, and what they lead to is never touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from runner_supervisor.engine.logs import EngineLog
from runner_supervisor.engine.process import Identity, record_identity
from runner_supervisor.engine.report import _keep
from runner_supervisor.errors import ConfigError
from runner_supervisor.front.audit import AuditLog
from runner_supervisor.front.contentlog import ContentLog
from runner_supervisor.front.listeners import bind_unix
from runner_supervisor.ownlog import OwnLog

SECRET = "not ours to touch"
COMMAND_S = 60.0
CONFIG_CODE = 78


@pytest.fixture
def target(tmp_path: Path) -> Path:
    path = tmp_path / "target"
    path.write_text(SECRET)
    return path


def start(state_dir: Path) -> subprocess.CompletedProcess[str]:
    """Start a supervisor that is refused before it looks for a llama-server."""
    command = [sys.executable, "-m", "runner_supervisor", "start", "--state-dir", str(state_dir), "--port", "0"]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)


@pytest.mark.parametrize("name", ["lock", "logs/supervisor.log", "run/control.sock"])
@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_a_start_refuses_what_is_planted(short_dir: Path, target: Path, name: str, plant: object) -> None:
    path = short_dir / name
    path.parent.mkdir(exist_ok=True)
    assert callable(plant)
    plant(target, path)
    done = start(short_dir)
    assert done.returncode == CONFIG_CODE
    assert str(path) in done.stderr
    assert target.read_text() == SECRET
    assert path.exists()


@pytest.mark.parametrize("name", ["", "logs", "run"])
def test_a_start_refuses_folders_that_lead_elsewhere(short_dir: Path, name: str) -> None:
    state_dir, elsewhere = short_dir / "state", short_dir / "elsewhere"
    elsewhere.mkdir()
    path = state_dir / name
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(elsewhere)
    done = start(state_dir)
    assert done.returncode == CONFIG_CODE
    assert "is a link" in done.stderr
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("log", [EngineLog, OwnLog, AuditLog, ContentLog])
@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_no_log_is_written_through_a_link(tmp_path: Path, target: Path, log: object, plant: object) -> None:
    assert callable(plant)
    assert callable(log)
    plant(target, tmp_path / "log")
    with pytest.raises(ConfigError, match="remove it"):
        log(tmp_path / "log")
    assert target.read_text() == SECRET


@pytest.mark.parametrize("name", ["engine-1.json", "engine-1.json.new"])
def test_the_record_of_the_engine_replaces_a_link(tmp_path: Path, target: Path, name: str) -> None:
    (tmp_path / name).symlink_to(target)
    record_identity(tmp_path / "engine-1.json", Identity(1, create_time=1.0, executable="/bin/true", socket="s"))
    assert target.read_text() == SECRET
    assert not (tmp_path / "engine-1.json").is_symlink()


@pytest.mark.parametrize("name", ["stall-1.txt", "stall-1.txt.new"])
def test_a_report_replaces_a_link(tmp_path: Path, target: Path, name: str) -> None:
    (tmp_path / name).symlink_to(target)
    assert _keep(tmp_path / "stall-1.txt", ["hung"])
    assert target.read_text() == SECRET
    assert (tmp_path / "stall-1.txt").read_text() == "hung\n"


def test_a_socket_of_ours_that_was_left_behind_is_replaced(short_dir: Path) -> None:
    bind_unix(short_dir / "control.sock").close()
    before = os.umask(0)
    try:
        bind_unix(short_dir / "control.sock").close()
    finally:
        os.umask(before)
    assert (short_dir / "control.sock").stat().st_mode & 0o777 == 0o600


def test_what_a_supervisor_writes_is_for_its_owner_alone_whatever_the_umask(short_dir: Path) -> None:
    state_dir = short_dir / "new" / "state"
    command = [sys.executable, "-m", "runner_supervisor", "start", "--state-dir", str(state_dir), "--port", "0"]
    environment = {**os.environ, "LLAMA_CPP_DIR": str(short_dir / "missing")}
    done = subprocess.run(command, capture_output=True, umask=0, env=environment, timeout=COMMAND_S, check=False)
    assert done.returncode != 0
    found = [state_dir.parent, state_dir, *state_dir.rglob("*")]
    assert {path.name for path in found} >= {"lock", "logs", "run", "supervisor.log"}
    assert {path: oct(path.stat().st_mode) for path in found if path.stat().st_mode & 0o077} == {}
    assert not psutil.Process().children(recursive=True)
