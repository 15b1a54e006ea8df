"""A source tree as a value: its checksum, its differences from another, and a copy of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner_builders.tree import checksum, copy, differences


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    tree = tmp_path / "tree"
    (tree / "src").mkdir(parents=True)
    (tree / "a").write_text("a")
    (tree / "src" / "b").write_text("b")
    (tree / "link").symlink_to("src")
    return tree


def test_a_copy_has_the_same_checksum(tree: Path, tmp_path: Path) -> None:
    copy(tree, tmp_path / "copy")
    assert checksum(tmp_path / "copy") == checksum(tree)
    assert (tmp_path / "copy" / "link").readlink() == Path("src")


def test_git_and_builds_at_the_top_are_no_source(tree: Path, tmp_path: Path) -> None:
    before = checksum(tree)
    for folder in (".git", "build-debug"):
        (tree / folder).mkdir()
        (tree / folder / "x").touch()
    assert checksum(tree) == before
    copy(tree, tmp_path / "copy")
    assert sorted(path.name for path in (tmp_path / "copy").iterdir()) == ["a", "link", "src"]


def test_bytes_paths_and_links_all_count(tree: Path) -> None:
    seen = {checksum(tree)}
    (tree / "a").write_text("A")
    seen.add(checksum(tree))
    (tree / "a").rename(tree / "c")
    seen.add(checksum(tree))
    (tree / "link").unlink()
    (tree / "link").symlink_to("c")
    seen.add(checksum(tree))
    (tree / "src" / "build").write_text("below the top it is a file like others")
    seen.add(checksum(tree))
    assert len(seen) == 5


def test_what_a_part_has_otherwise_than_the_whole_is_named(tree: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    copy(tree, part)
    (tree / "more").touch()
    assert differences(part, tree) == []
    (part / "src" / "b").write_text("B")
    (part / "own").touch()
    assert differences(part, tree) == ["own", "src/b"]
