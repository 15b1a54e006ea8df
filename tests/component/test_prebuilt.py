"""LLAMA_CPP_DIR: a llama-server that somebody else built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.component.build_rig import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture
def prebuilt(tree: Tree) -> Path:
    """A folder with bin/llama-server in it."""
    folder = tree.folder / "prebuilt"
    folder.mkdir()
    tree.built().rename(folder / "bin")
    return folder


def manifest_of(printed: str) -> dict[str, Any]:
    return dict(json.loads(Path(printed.strip()).read_text()))


def test_it_is_used_as_it_is(tree: Tree, prebuilt: Path) -> None:
    done = tree.build("--print-manifest", LLAMA_CPP_DIR=str(prebuilt))
    manifest = manifest_of(done.stdout)
    binary = str(prebuilt / "bin" / "llama-server")
    assert (manifest["backend"], manifest["binary"], list(manifest["files"])) == ("prebuilt", binary, [binary])
    assert (manifest["verified"]["goldens"], done.stderr) == (1, "")


def test_wrong_answers_bring_a_warning_each_time(tree: Tree, prebuilt: Path) -> None:
    goldens = tree.goldens / "goldens.json"
    goldens.write_text(goldens.read_text().replace('"fine"', '"well"'))
    warning = f"warning: {prebuilt}/bin/llama-server computes wrong: to «How are you?» it said «fine», not «well»; "
    for _ in range(2):
        done = tree.build("--print-manifest", LLAMA_CPP_DIR=str(prebuilt))
        assert done.returncode == 0
        assert done.stderr == f"{warning}it is used all the same, as LLAMA_CPP_DIR says\n"
    assert manifest_of(done.stdout)["verified"]["goldens"] == 0


def test_what_was_found_right_is_not_asked_again_until_it_changes(tree: Tree, prebuilt: Path) -> None:
    first = tree.build("--print-manifest", LLAMA_CPP_DIR=str(prebuilt)).stdout
    made = Path(first.strip()).stat().st_mtime_ns
    assert tree.build("--print-manifest", LLAMA_CPP_DIR=str(prebuilt)).stdout == first
    assert Path(first.strip()).stat().st_mtime_ns == made
    (prebuilt / "bin" / "libggml.so").touch()
    assert tree.build("--print-manifest", LLAMA_CPP_DIR=str(prebuilt)).stdout == first
    assert str(prebuilt / "bin" / "libggml.so") in manifest_of(first)["files"]


def test_a_folder_without_one_is_refused(tree: Tree) -> None:
    failed = tree.build(LLAMA_CPP_DIR=str(tree.folder))
    assert failed.returncode == 78
    assert "holds no executable llama-server (looked for llama-server, bin/llama-server" in failed.stderr


def test_one_that_does_not_start_is_refused(tree: Tree, prebuilt: Path) -> None:
    (prebuilt / "bin" / "llama-server").write_text("#!/bin/sh\nexit 1\n")
    failed = tree.build(LLAMA_CPP_DIR=str(prebuilt))
    assert failed.returncode == 78
    assert "llama-server --version fails; build it again for this machine" in failed.stderr


def test_there_is_nothing_to_check_it_against(tree: Tree, prebuilt: Path) -> None:
    failed = tree.run(tree.command("build", "--check"), LLAMA_CPP_DIR=str(prebuilt))
    assert (failed.returncode, "was built elsewhere" in failed.stderr) == (1, True)
