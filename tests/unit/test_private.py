"""Files and folders of ours: modes, and what is planted under their names."""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runner_supervisor.errors import ConfigError
from runner_supervisor.private import open_private, private_folder, remove_socket, write_private

SECRET = "not ours to touch"


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Whoever started us may have the laxest of umasks."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def target(short_dir: Path) -> Path:
    """A file that is none of ours to write."""
    path = short_dir / "target"
    path.write_text(SECRET)
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_a_new_file_is_for_its_owner_alone(short_dir: Path) -> None:
    os.close(open_private(short_dir / "file"))
    write_private(short_dir / "record", b"text")
    assert [mode(short_dir / name) for name in ("file", "record")] == [0o600, 0o600]


def test_a_file_of_ours_is_narrowed_and_kept(short_dir: Path) -> None:
    (short_dir / "file").write_text("kept")
    (short_dir / "file").chmod(0o666)
    os.close(open_private(short_dir / "file"))
    assert mode(short_dir / "file") == 0o600
    assert (short_dir / "file").read_text() == "kept"


def test_a_new_folder_and_those_above_it_are_for_their_owner_alone(short_dir: Path) -> None:
    private_folder(short_dir / "one" / "two")
    assert [mode(short_dir / "one"), mode(short_dir / "one" / "two")] == [0o700, 0o700]


def test_a_folder_of_ours_is_narrowed(short_dir: Path) -> None:
    (short_dir / "wide").mkdir(mode=0o777)
    private_folder(short_dir / "wide")
    assert mode(short_dir / "wide") == 0o700


def test_a_link_in_place_of_a_folder_is_refused(short_dir: Path) -> None:
    (short_dir / "elsewhere").mkdir(mode=0o755)
    (short_dir / "link").symlink_to(short_dir / "elsewhere")
    with pytest.raises(ConfigError, match="is a link"):
        private_folder(short_dir / "link")
    assert mode(short_dir / "elsewhere") == 0o755


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_in_place_of_a_file_is_refused(short_dir: Path, target: Path, exists: bool) -> None:
    (short_dir / "log").symlink_to(target if exists else short_dir / "missing")
    with pytest.raises(ConfigError, match="is a link"):
        open_private(short_dir / "log", append=True)
    assert target.read_text() == SECRET
    assert not (short_dir / "missing").exists()


def test_a_file_with_several_names_is_refused_as_it_is(short_dir: Path, target: Path) -> None:
    target.chmod(0o644)
    (short_dir / "log").hardlink_to(target)
    with pytest.raises(ConfigError, match="hard links"):
        open_private(short_dir / "log", append=True)
    assert target.read_text() == SECRET
    assert mode(target) == 0o644


def test_a_pipe_is_refused_and_not_waited_for(short_dir: Path) -> None:
    os.mkfifo(short_dir / "log")
    with pytest.raises(ConfigError, match="where a file of ours belongs"):
        open_private(short_dir / "log", append=True)


def test_a_folder_and_a_device_are_refused(short_dir: Path) -> None:
    for name in (short_dir, Path("/dev/null")):
        with pytest.raises(ConfigError, match="where a file of ours belongs"):
            open_private(name, append=True)


def test_what_belongs_to_somebody_else_is_refused(
    short_dir: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        open_private(target)
    with pytest.raises(ConfigError, match="belongs to somebody else"):
        private_folder(short_dir)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "socket"))
        with pytest.raises(ConfigError, match="not a socket of ours"):
            remove_socket(short_dir / "socket")


def test_a_record_takes_the_place_of_links_and_leaves_their_targets(short_dir: Path, target: Path) -> None:
    record = short_dir / "record"
    for name in (record, record.with_name("record.new")):
        name.symlink_to(target)
    write_private(record, b"ours")
    assert target.read_text() == SECRET
    assert record.read_text() == "ours"
    assert not record.is_symlink()
    assert not record.with_name("record.new").exists()


def test_a_record_that_cannot_be_put_in_place_leaves_nothing_behind(short_dir: Path) -> None:
    (short_dir / "record").mkdir()
    with pytest.raises(IsADirectoryError):
        write_private(short_dir / "record", b"ours")
    assert [path.name for path in short_dir.iterdir()] == ["record"]


def test_only_sockets_are_removed_as_sockets(short_dir: Path, target: Path) -> None:
    remove_socket(short_dir / "missing")
    (short_dir / "link").symlink_to(target)
    for path in (target, short_dir / "link"):
        with pytest.raises(ConfigError, match="not a socket of ours"):
            remove_socket(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(short_dir / "socket"))
    remove_socket(short_dir / "socket")
    assert sorted(path.name for path in short_dir.iterdir()) == ["link", "target"]


def test_who_swaps_the_file_for_a_link_meanwhile_wins_nothing(short_dir: Path, target: Path) -> None:
    log, spare = short_dir / "log", short_dir / "spare"
    over = threading.Event()

    def swap() -> None:
        while not over.is_set():
            spare.unlink(missing_ok=True)
            spare.symlink_to(target)
            spare.replace(log)
            log.unlink(missing_ok=True)

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = {"opened": 0, "refused": 0}
    try:
        for _ in range(2_000):
            try:
                descriptor = open_private(log, append=True)
            except ConfigError:
                outcomes["refused"] += 1
            else:
                outcomes["opened"] += 1
                os.write(descriptor, b"a line of ours\n")
                os.close(descriptor)
    finally:
        over.set()
        swapper.join()
    assert target.read_text() == SECRET
    assert sum(outcomes.values()) == 2_000
