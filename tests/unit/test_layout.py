"""Where files go."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import filelock
import pytest

from runner_supervisor.errors import ConfigError
from runner_supervisor.layout import LONGEST_SOCKET_NAME, SOCKET_PATH_BYTES, Layout


def test_the_run_folder_lies_in_the_state_folder_when_its_path_is_short() -> None:
    assert Layout(Path("/var/lib/rs")).run_dir == Path("/var/lib/rs/run")


def test_a_long_state_folder_gets_a_run_folder_with_a_short_path() -> None:
    layout = Layout(Path("/") / ("long" * 40))
    assert layout.run_dir.parent == Path(tempfile.gettempdir())
    assert len(os.fsencode(layout.run_dir / LONGEST_SOCKET_NAME)) <= SOCKET_PATH_BYTES
    assert layout.run_dir != Layout(Path("/") / ("other" * 40)).run_dir


def test_folders_are_for_their_owner_alone(short_dir: Path) -> None:
    layout = Layout(short_dir / "state")
    layout.create()
    layout.create()
    for folder in (layout.state_dir, layout.run_dir, layout.engine_log.parent):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_lock_that_is_held_shows(short_dir: Path) -> None:
    layout = Layout(short_dir)
    assert not layout.locked
    with filelock.FileLock(layout.lock):
        assert layout.locked
    assert not layout.locked
    assert not Layout(short_dir / "missing").locked


def test_a_run_folder_that_leads_elsewhere_is_refused(short_dir: Path) -> None:
    (short_dir / "run").symlink_to(short_dir)
    with pytest.raises(ConfigError, match="is a link"):
        Layout(short_dir).create()


def test_a_state_folder_that_cannot_be_made_is_named(short_dir: Path) -> None:
    (short_dir / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot use the state folder .*; name another with --state-dir"):
        Layout(short_dir / "file" / "state").create()
