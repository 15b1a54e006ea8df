"""What is installed, as text: units for systemd, a property list for launchd."""

from __future__ import annotations

import plistlib
from dataclasses import replace
from pathlib import Path

import pytest

from runner_supervisor.errors import ConfigError
from runner_supervisor.service import launchd, systemd
from runner_supervisor.service.unit import Scope, Unit

SYSTEM = Unit(scope=Scope.SYSTEM, command=Path("/opt/rs/bin/runner-supervisor"), gpu_groups=("render",))
USER = replace(SYSTEM, scope=Scope.USER)
ETC, CONFIG = Path("/etc"), Path("/home/me/.config")


def values(text: str, name: str) -> list[str]:
    """What a unit file gives a directive."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def test_a_machines_service_is_a_user_of_its_own_with_folders_of_its_own() -> None:
    text = systemd.service_unit(SYSTEM)
    assert values(text, "User") == values(text, "StateDirectory") == values(text, "CacheDirectory")
    assert values(text, "Environment") == [
        "RUNNER_STATE_DIR=%S/runner-supervisor",
        "RUNNER_CACHE_DIR=%C/runner-supervisor",
    ]
    assert values(text, "WantedBy") == ["multi-user.target"]


def test_a_users_service_has_only_what_a_user_may_ask_for() -> None:
    text = systemd.service_unit(USER)
    assert not values(text, "User") + values(text, "ProtectSystem") + values(text, "StateDirectory")
    assert values(text, "NoNewPrivileges") == ["yes"]
    assert values(text, "WantedBy") == ["default.target"]


def test_settings_reach_the_service_letter_by_letter() -> None:
    odd = (("RUNNER_MODEL", '/srv/50% "off"\\a b.gguf'), ("RUNNER_ENGINE_ARGS", "--alias $HOME"))
    text = systemd.service_unit(replace(USER, environment=odd))
    assert values(text, "Environment") == [
        r'"RUNNER_MODEL=/srv/50%% \"off\"\\a b.gguf"',
        '"RUNNER_ENGINE_ARGS=--alias $HOME"',
    ]


def test_a_path_that_would_write_further_lines_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot stand in a unit file"):
        systemd.service_unit(replace(USER, environment=(("RUNNER_MODEL", "/a\nExecStartPre=/b"),)))


def test_the_command_is_not_expanded() -> None:
    text = systemd.service_unit(replace(USER, command=Path("/opt/$x y/runner-supervisor")))
    assert values(text, "ExecStart") == ['"/opt/$$x y/runner-supervisor" start']


def test_keys_are_handed_over_as_a_credential() -> None:
    text = systemd.service_unit(replace(SYSTEM, keys_file=Path("/etc/keys")))
    assert values(text, "LoadCredential") == ["api-keys:/etc/keys"]
    assert "RUNNER_API_KEYS_FILE=%d/api-keys" in values(text, "Environment")
    assert not values(systemd.service_unit(SYSTEM), "LoadCredential")


@pytest.mark.parametrize(
    ("host", "stream"), [("localhost", "127.0.0.1:80"), ("0.0.0.0", "0.0.0.0:80"), ("::1", "[::1]:80")]
)
def test_the_socket_listens_where_the_settings_say(host: str, stream: str) -> None:
    assert values(systemd.socket_unit(replace(SYSTEM, host=host, port=80)), "ListenStream") == [stream]


@pytest.mark.parametrize(("host", "port"), [("example.org", 80), ("127.0.0.1", 0)])
def test_an_address_that_systemd_cannot_listen_on_is_refused(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=r"--(host|port)"):
        systemd.socket_unit(replace(SYSTEM, host=host, port=port))


def test_gpus_come_with_a_drop_in_where_there_are_some() -> None:
    with_gpu = dict(systemd.installation(SYSTEM, home=ETC, config_home=CONFIG).files)
    without = dict(systemd.installation(replace(SYSTEM, gpu_groups=None), home=ETC, config_home=CONFIG).files)
    drop_in = Path("/etc/systemd/system/runner-supervisor.service.d/gpu.conf")
    assert values(with_gpu[drop_in], "SupplementaryGroups") == ["render"]
    assert set(with_gpu) - set(without) == {drop_in}


def test_a_users_service_is_installed_below_the_users_configuration() -> None:
    installation = systemd.installation(USER, home=ETC, config_home=CONFIG)
    assert {path.parent for path, _ in installation.files} == {CONFIG / "systemd" / "user"}
    commands = (*installation.enable, *installation.start, *installation.disable, *installation.after)
    assert {command[:2] for command in commands} == {("systemctl", "--user")}


def test_launchd_keeps_an_agent_running_and_bounds_it() -> None:
    unit = replace(USER, environment=(("RUNNER_MODEL", "/m & <n>.gguf"),), keys_file=Path("/keys"), stop_s=60)
    content = plistlib.loads(launchd.property_list(unit, home=Path("/Users/me")).encode())
    assert content["ProgramArguments"] == ["/opt/rs/bin/runner-supervisor", "start"]
    assert content["KeepAlive"] == {"SuccessfulExit": False}
    assert content["ExitTimeOut"] == 60
    assert content["SoftResourceLimits"]["NumberOfFiles"] == 65536
    assert content["StandardErrorPath"] == "/Users/me/Library/Logs/runner-supervisor.log"
    assert content["EnvironmentVariables"] == {
        "RUNNER_MODEL": "/m & <n>.gguf",
        "RUNNER_HOST": "127.0.0.1",
        "RUNNER_PORT": "8080",
        "RUNNER_API_KEYS_FILE": "/keys",
    }
    assert "UserName" not in content


def test_a_machines_daemon_runs_as_whoever_installed_it() -> None:
    unit = replace(SYSTEM, user="me")
    installation = launchd.installation(unit, home=Path("/Users/me"))
    [(path, text)] = installation.files
    assert path == Path("/Library/LaunchDaemons/runner-supervisor.plist")
    assert plistlib.loads(text.encode())["UserName"] == "me"
    assert installation.start[-1] == ("launchctl", "load", str(path))
    assert installation.disable == (("launchctl", "unload", str(path)),)
