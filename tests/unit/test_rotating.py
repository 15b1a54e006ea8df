"""Logs on disk: rotation, what is planted under their names, a disk that is full."""

from __future__ import annotations

import errno
import logging
import os
import stat
from pathlib import Path

import pytest

from runner_supervisor.errors import ConfigError
from runner_supervisor.rotating import RotatingFile

LINE = b"0123456789012345678\n"


def written(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir() if found.name.startswith(path.name))


def test_files_are_bounded_in_size_and_number_and_no_line_is_torn(tmp_path: Path) -> None:
    log = RotatingFile(tmp_path / "log", most_bytes=100, files=3)
    for _ in range(40):
        assert log.write(LINE)
    log.close()
    assert written(tmp_path / "log") == ["log", "log.1", "log.2"]
    for path in tmp_path.iterdir():
        assert path.read_bytes() == LINE * 5
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_goes_on_where_it_was_left(tmp_path: Path) -> None:
    for _ in range(2):
        log = RotatingFile(tmp_path / "log")
        log.write(LINE)
        log.close()
    assert (tmp_path / "log").read_bytes() == LINE * 2


def test_a_line_longer_than_a_file_gets_one_of_its_own(tmp_path: Path) -> None:
    log = RotatingFile(tmp_path / "log", most_bytes=10)
    assert [log.write(LINE) for _ in range(2)] == [True, True]
    log.close()
    assert (tmp_path / "log").read_bytes() == (tmp_path / "log.1").read_bytes() == LINE


def test_links_under_the_names_of_older_files_are_moved_and_never_written(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("not ours")
    for name in ("log.1", "log.2"):
        (tmp_path / name).symlink_to(target)
    log = RotatingFile(tmp_path / "log", most_bytes=len(LINE), files=3)
    for _ in range(10):
        assert log.write(LINE)
    log.close()
    assert target.read_text() == "not ours"
    assert not any((tmp_path / name).is_symlink() for name in ("log", "log.1", "log.2"))


def test_a_link_that_takes_its_place_while_it_is_open_is_moved_out_of_the_way(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("not ours")
    log = RotatingFile(tmp_path / "log", most_bytes=len(LINE))
    log.write(LINE)
    (tmp_path / "log").unlink()
    (tmp_path / "log").symlink_to(target)
    assert log.write(LINE)
    log.close()
    assert (tmp_path / "log").read_bytes() == LINE
    assert target.read_text() == "not ours"


def test_a_file_that_cannot_be_had_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot write the log"):
        RotatingFile(tmp_path / "missing" / "log")


def test_a_full_disk_is_said_once_and_leaves_no_half_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    log = RotatingFile(tmp_path / "log")
    log.write(LINE)
    write = os.write

    def half(descriptor: int, data: memoryview) -> int:
        if len(data) < len(LINE):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, data[:5])

    with monkeypatch.context() as full:
        full.setattr(os, "write", half)
        assert [log.write(LINE) for _ in range(3)] == [False] * 3
    assert log.write(LINE)
    log.close()
    assert (tmp_path / "log").read_bytes() == LINE * 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "No space left on device" in caplog.text
