"""What installing writes and runs, and what uninstalling takes away."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from runner_supervisor.errors import RunnerError
from runner_supervisor.service.install import install, uninstall
from runner_supervisor.service.unit import Command, Installation


def touching(path: Path) -> tuple[Command, ...]:
    return (("touch", str(path)),)


def installation(folder: Path) -> Installation:
    return Installation(
        files=((folder / "units" / "a.service", "text\n"), (folder / "units" / "a.service.d" / "gpu.conf", "gpu\n")),
        enable=touching(folder / "enabled"),
        start=touching(folder / "started"),
        disable=touching(folder / "disabled"),
        after=touching(folder / "after"),
    )


@pytest.mark.parametrize("now", [False, True])
def test_files_are_there_for_everybody_to_read_and_commands_have_run(tmp_path: Path, now: bool) -> None:
    install(installation(tmp_path), now=now, stop_s=1)
    unit = tmp_path / "units" / "a.service"
    assert (unit.read_text(), stat.S_IMODE(unit.stat().st_mode)) == ("text\n", 0o644)
    assert (tmp_path / "enabled").exists()
    assert (tmp_path / "started").exists() == now


def test_uninstalling_removes_what_was_installed_and_its_empty_folder(tmp_path: Path) -> None:
    install(installation(tmp_path), now=False, stop_s=1)
    assert len(uninstall(installation(tmp_path), stop_s=1)) == 2
    assert not list((tmp_path / "units").iterdir())
    assert (tmp_path / "disabled").exists()
    assert (tmp_path / "after").exists()


def test_a_drop_in_of_somebody_elses_stays(tmp_path: Path) -> None:
    install(installation(tmp_path), now=False, stop_s=1)
    override = tmp_path / "units" / "a.service.d" / "override.conf"
    override.write_text("theirs\n")
    uninstall(installation(tmp_path), stop_s=1)
    assert list((tmp_path / "units").rglob("*.conf")) == [override]


def test_there_must_be_something_to_uninstall(tmp_path: Path) -> None:
    with pytest.raises(RunnerError, match="no service is installed"):
        uninstall(installation(tmp_path), stop_s=1)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("sh", "-c", "echo first; echo why >&2; exit 1"), "failed: why"),
        (("false",), "failed: exit code 1"),
        (("no-such-command",), "cannot run no-such-command"),
    ],
)
def test_a_command_that_fails_is_named_with_what_it_said(command: Command, message: str) -> None:
    with pytest.raises(RunnerError, match=message):
        install(Installation(files=(), enable=(command,), start=(), disable=(), after=()), now=False, stop_s=1)
