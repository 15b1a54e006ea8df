"""`runner-supervisor service`: what it shows, what it refuses, and that a dry run changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner_supervisor import building, service_cli
from runner_supervisor.errors import ConfigError, RunnerError
from runner_supervisor.service.unit import Scope, Unit
from runner_supervisor.settings import load_settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what it shows is systemd's")

OPT = Path("/opt/runner-supervisor/bin/runner-supervisor")


def service(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`runner-supervisor service …`, for a user whose configuration lies in `folder`."""
    command = [sys.executable, "-m", "runner_supervisor", "service", *arguments]
    environment = os.environ | {"XDG_CONFIG_HOME": str(folder)}
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, env=environment)


def test_a_dry_run_shows_files_and_commands_and_writes_nothing(tmp_path: Path, short_dir: Path) -> None:
    model = short_dir / "a b.gguf"
    model.write_bytes(b"GGUF")
    flags = ("--model", str(model), "--port", "9000", "--", "--ctx-size", "4096")
    shown = service(tmp_path, "install", "--user", "--now", "--dry-run", *flags)
    assert shown.returncode == 0, shown.stderr
    lines = shown.stdout.splitlines()
    assert f"# {tmp_path}/systemd/user/runner-supervisor.socket" in lines
    assert "ListenStream=127.0.0.1:9000" in lines
    assert f'Environment="RUNNER_MODEL={model}"' in lines
    assert 'Environment="RUNNER_ENGINE_ARGS=--ctx-size 4096"' in lines
    assert lines[-1] == "systemctl --user restart runner-supervisor.socket runner-supervisor.service"
    assert not list(tmp_path.iterdir())


def test_what_a_settings_file_says_is_left_to_the_file_but_for_the_address(tmp_path: Path) -> None:
    """Else a later change of the file would come to nothing."""
    config = tmp_path / "settings.toml"
    config.write_text('port = 9001\nmodel = "/srv/of-the-file.gguf"\nengine_args = ["--ctx-size", "4096"]\n')
    shown = service(tmp_path, "install", "--user", "--dry-run", "--config", str(config))
    assert "ListenStream=127.0.0.1:9001" in shown.stdout.splitlines()
    environment = [line for line in shown.stdout.splitlines() if line.startswith("Environment=")]
    assert environment == [f"Environment=RUNNER_CONFIG={config}"]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [(("--model", "/none.gguf"), "no model file at /none.gguf"), (("--api-keys-file", "/none"), "no file with keys")],
)
def test_a_service_that_could_not_start_is_not_installed(
    tmp_path: Path, flags: tuple[str, ...], complaint: str
) -> None:
    refused = service(tmp_path, "install", "--user", "--dry-run", *flags)
    assert refused.returncode == 78
    assert complaint in refused.stderr


@pytest.mark.parametrize("dry", [(), ("--dry-run",)], ids=["really", "dry"])
def test_what_is_not_installed_cannot_be_uninstalled(tmp_path: Path, dry: tuple[str, ...]) -> None:
    refused = service(tmp_path, "uninstall", "--user", *dry)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: no service is installed: there is no {tmp_path}/systemd/user/runner-supervisor.service\n"
    )


@pytest.mark.parametrize("folder", ["/home/me", "/tmp", "/var/tmp"])
@pytest.mark.parametrize("what", ["command", "model", "config"])
def test_a_machines_service_is_not_given_what_it_does_not_see(
    what: str, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    hidden = Path(folder, "it")
    unit = Unit(scope=Scope.SYSTEM, command=hidden if what == "command" else OPT)
    settings = load_settings({"model": hidden if what == "model" else None}, config=None)
    config = hidden if what == "config" else None
    with pytest.raises(ConfigError, match=f"does not see {hidden}"):
        service_cli._refuse_hidden(unit, settings, config)


def test_a_machines_service_is_given_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    settings = load_settings({"model": Path("/srv/model.gguf")}, config=None)
    service_cli._refuse_hidden(Unit(scope=Scope.SYSTEM, command=OPT), settings, Path("/etc/settings.toml"))


def test_a_machines_service_is_roots_to_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    service_cli._require_root(Scope.USER)
    with pytest.raises(RunnerError, match="use sudo"):
        service_cli._require_root(Scope.SYSTEM)


def test_the_service_manager_hears_of_a_build_while_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "BEAT_S", 0.01)
    beats: list[None] = []
    code, printed = building.run_builder(["build", "--help"], stdout=subprocess.PIPE, beat=lambda: beats.append(None))
    assert (code, "--backend" in printed) == (0, True)
    assert len(beats) > 1
