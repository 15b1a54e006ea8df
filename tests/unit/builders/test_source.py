"""Finding and verifying the source, with real git and real pip on repositories and archives of our own."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from runner_builders import source
from runner_builders.errors import SourceError
from runner_builders.pin import Pin, Sdist, read_pin
from runner_builders.run import OF_ANOTHER_REPOSITORY
from runner_builders.source import find_source
from runner_builders.tree import checksum

BACKEND = """
import os

def _metadata(directory):
    folder = os.path.join(directory, "tiny_sdist-1.0.dist-info")
    os.mkdir(folder)
    with open(os.path.join(folder, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: tiny-sdist\\nVersion: 1.0\\n")
    return "tiny_sdist-1.0.dist-info"

def prepare_metadata_for_build_wheel(directory, config_settings=None):
    return _metadata(directory)

def build_wheel(directory, config_settings=None, metadata_directory=None):
    raise RuntimeError("only its metadata is asked for")
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@invalid", "-c", "init.defaultBranch=main"]
    environment = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_REPOSITORY}
    done = subprocess.run(
        ["git", *identity, "-C", str(folder), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    return done.stdout.strip()


def make_repository(folder: Path) -> str:
    """A git repository that looks like llama.cpp from afar; returns its commit."""
    folder.mkdir()
    (folder / "CMakeLists.txt").write_text("project(x)\n")
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "all")
    return git(folder, "rev-parse", "HEAD")


def make_sdist(folder: Path) -> str:
    """A source distribution that carries a tree under vendor/llama.cpp; returns its sha256."""
    folder.mkdir()
    path = folder / "tiny_sdist-1.0.tar.gz"
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: tiny-sdist\nVersion: 1.0\n",
        "pyproject.toml": PYPROJECT,
        "backend.py": BACKEND,
        "vendor/llama.cpp/CMakeLists.txt": "project(x)\n",
        "vendor/llama.cpp/.git": "gitdir: elsewhere\n",
        "vendor/other/file": "not wanted\n",
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"tiny_sdist-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pin:
    """A pin whose git URL and sdist lie in this folder; no vendored tree, no network."""
    commit = make_repository(tmp_path / "upstream")
    sha256 = make_sdist(tmp_path / "index")
    monkeypatch.setattr(source, "REPOSITORY", tmp_path / "checkout")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return Pin(
        commit=commit,
        git=f"file://{tmp_path / 'upstream'}",
        sdist=Sdist("tiny-sdist==1.0", sha256, "vendor/llama.cpp", tree_sha256=checksum(tmp_path / "upstream")),
        patches=(),
    )


def with_sdist(pin: Pin, **changes: str) -> Pin:
    """The pin without git, and with another sdist."""
    assert pin.sdist
    return replace(pin, git="file:///nowhere", sdist=replace(pin.sdist, **changes))


def silent(_: str) -> None:
    """Say nothing."""


def test_the_pin_of_this_repository_is_complete() -> None:
    pin = read_pin()
    assert pin.sdist
    assert (len(pin.commit), len(pin.sdist.sha256), len(pin.sdist.tree_sha256)) == (40, 64, 64)


def test_git_is_asked_first_and_the_cache_keeps_what_it_gave(pin: Pin, tmp_path: Path) -> None:
    said: list[str] = []
    found = find_source(pin, explicit=None, cache=tmp_path / "cache", say=said.append)
    assert (found.commit, found.origin) == (pin.commit, "git")
    assert said == [f"fetching llama.cpp {pin.commit[:12]} by git"]
    gone = replace(pin, git="file:///nowhere")
    again = find_source(gone, explicit=None, cache=tmp_path / "cache", say=said.append)
    assert (again.path, again.origin, len(said)) == (found.path, "cache", 1)


def test_without_git_the_sdist_is_fetched_by_pip_and_only_its_tree_kept(pin: Pin, tmp_path: Path) -> None:
    found = find_source(with_sdist(pin), explicit=None, cache=tmp_path / "cache", say=silent)
    assert (found.origin, found.sha256) == ("sdist", checksum(tmp_path / "upstream"))
    assert [path.name for path in found.path.iterdir()] == ["CMakeLists.txt"]
    assert [path.name for path in (tmp_path / "cache" / "sources").iterdir()] == [pin.commit]


def test_a_wrong_checksum_stops_with_both_values(pin: Pin, tmp_path: Path) -> None:
    assert pin.sdist
    wrong = "0" * 64
    with pytest.raises(SourceError, match=f"tiny-sdist==1.0 has sha256 {pin.sdist.sha256}, but {wrong} is pinned"):
        find_source(with_sdist(pin, sha256=wrong), explicit=None, cache=tmp_path / "cache", say=silent)
    assert not list((tmp_path / "cache" / "sources").iterdir())


def test_with_neither_both_reasons_and_a_way_out_are_named(pin: Pin, tmp_path: Path) -> None:
    bad = with_sdist(pin, requirement="no-such-thing==1")
    with pytest.raises(SourceError, match=r"git said «.+», pip said «.*no-such-thing.*»; check the network, or put"):
        find_source(bad, explicit=None, cache=tmp_path / "cache", say=silent)


def test_an_explicit_checkout_at_the_pin_is_used(pin: Pin, tmp_path: Path) -> None:
    found = find_source(pin, explicit=tmp_path / "upstream", cache=tmp_path / "cache", say=silent)
    assert found.path == tmp_path / "upstream"
    assert not (tmp_path / "cache").exists()


def test_a_vendored_checkout_is_used_before_the_cache(pin: Pin, tmp_path: Path) -> None:
    vendored = tmp_path / "checkout" / "third_party" / "llama.cpp"
    vendored.parent.mkdir(parents=True)
    git(tmp_path, "clone", "--quiet", pin.git, str(vendored))
    found = find_source(pin, explicit=None, cache=tmp_path / "cache", say=silent)
    assert (found.path, found.origin) == (vendored, "third_party/llama.cpp")


def test_another_commit_stops_with_both_values(pin: Pin, tmp_path: Path) -> None:
    pinned = replace(pin, commit="f" * 40)
    with pytest.raises(SourceError, match=f"is at commit {pin.commit}, but {'f' * 40} is pinned"):
        find_source(pinned, explicit=tmp_path / "upstream", cache=tmp_path / "cache", say=silent)


def test_a_folder_inside_another_repository_is_not_taken_for_it(pin: Pin, tmp_path: Path) -> None:
    inside = tmp_path / "upstream" / "inside"
    inside.mkdir()
    (inside / "CMakeLists.txt").touch()
    with pytest.raises(SourceError, match=r"inside has sha256 [0-9a-f]{64}, but"):
        find_source(pin, explicit=inside, cache=tmp_path / "cache", say=silent)


@pytest.mark.parametrize("name", ["CMakeLists.txt", "new.cmake"])
def test_a_changed_checkout_is_refused(pin: Pin, tmp_path: Path, name: str) -> None:
    (tmp_path / "upstream" / name).write_text("project(other)\n")
    with pytest.raises(SourceError, match=rf"was changed, {name} for one; put changes into third_party/patches"):
        find_source(pin, explicit=tmp_path / "upstream", cache=tmp_path / "cache", say=silent)


def test_a_tree_without_git_is_verified_by_its_checksum(pin: Pin, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "CMakeLists.txt").write_text("project(x)\n")
    assert find_source(pin, explicit=plain, cache=tmp_path / "cache", say=silent).commit == pin.commit
    (plain / "CMakeLists.txt").write_text("project(y)\n")
    with pytest.raises(SourceError, match=r"plain has sha256 [0-9a-f]{64}, but"):
        find_source(pin, explicit=plain, cache=tmp_path / "cache", say=silent)
    with pytest.raises(SourceError, match="but a git checkout is pinned"):
        find_source(replace(pin, sdist=None), explicit=plain, cache=tmp_path / "cache", say=silent)


def test_a_cached_source_that_was_changed_is_fetched_again(pin: Pin, tmp_path: Path) -> None:
    found = find_source(with_sdist(pin), explicit=None, cache=tmp_path / "cache", say=silent)
    (found.path / "CMakeLists.txt").write_text("project(y)\n")
    said: list[str] = []
    again = find_source(with_sdist(pin), explicit=None, cache=tmp_path / "cache", say=said.append)
    assert (said[0], again) == (f"the source in {found.path} is not what is pinned; fetching it again", found)


def test_an_sdist_with_another_tree_than_is_pinned_is_refused(pin: Pin, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"the tree in tiny-sdist==1.0 has sha256 .* at odds with itself"):
        find_source(with_sdist(pin, tree_sha256="0" * 64), explicit=None, cache=tmp_path / "cache", say=silent)


def test_a_folder_without_a_source_is_refused(pin: Pin, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no llama.cpp source in .* \(no CMakeLists.txt there\)"):
        find_source(pin, explicit=tmp_path, cache=tmp_path / "cache", say=silent)


def test_a_repository_named_by_the_environment_is_left_alone(
    pin: Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a git hook, where GIT_DIR names the repository that is being worked on."""
    mine = make_repository(tmp_path / "mine")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "mine" / ".git"))
    found = find_source(pin, explicit=None, cache=tmp_path / "cache", say=silent)
    assert (found.path / ".git").is_dir()
    assert git(tmp_path / "mine", "rev-parse", "HEAD") == mine


def test_a_broken_connection_is_tried_again_and_a_refusal_is_not(
    pin: Pin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", waits.append)
    tries = tmp_path / "tries"
    fake = tmp_path / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text(
        f'#!/bin/sh\n[ "$1" = fetch ] && echo x >> {tries} && echo "fatal: early EOF" && exit 128\nexit 0\n'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(fake.parent), prepend=os.pathsep)
    assert find_source(pin, explicit=None, cache=tmp_path / "cache", say=silent).origin == "sdist"
    assert len(tries.read_text().split()) == 3
    assert len(waits) == 2
    fake.write_text(fake.read_text().replace("early EOF", "repository not found"))
    assert find_source(pin, explicit=None, cache=tmp_path / "other", say=silent).origin == "sdist"
    assert len(tries.read_text().split()) == 4
