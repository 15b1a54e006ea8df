"""`vendor`, with real git and pip on a repository and an index folder of our own."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tests.unit.builders.test_source import git, make_repository, make_sdist

from runner_builders import source
from runner_builders.errors import SourceError
from runner_builders.pin import read_pin
from runner_builders.tree import checksum
from runner_builders.vendor import vendor

TIMEOUT_S = 100
COMMAND = """
import sys
from pathlib import Path
from runner_builders import pin, source
checkout, *arguments = sys.argv[1:]
source.REPOSITORY = pin.REPOSITORY = Path(checkout)
from runner_builders import cli
sys.argv = ["builder", "vendor", *arguments]
cli.main()
"""
LOCK = """# What this is.
commit = "{commit}"
git = "{git}"

# Where it comes from without git.
[sdist]
requirement = "tiny-sdist==1.0"
sha256 = "{sha256}"
subdirectory = "vendor/llama.cpp"
# Of the tree itself.
tree_sha256 = "{tree}"
"""


class Checkout:
    """A checkout of this repository, as far as `vendor` looks, whose llama.cpp and sdist lie beside it."""

    def __init__(self, folder: Path) -> None:
        self.upstream, self.index = folder / "upstream", folder / "index"
        self.commit = make_repository(self.upstream)
        git(self.upstream, "tag", "-a", "-m", "one", "b1")
        self.tree = checksum(self.upstream)
        self.sha256 = make_sdist(self.index)
        self.path = folder / "checkout"
        self.place = self.path / "third_party" / "llama.cpp"
        self.lock = self.path / "third_party" / "llama.cpp.lock.toml"
        self.lock.parent.mkdir(parents=True)
        (self.path / ".gitignore").write_text("/third_party/llama.cpp/\n")
        self.url = self.upstream.as_uri()
        self.write_lock()
        git(self.path, "init", "--quiet")

    def write_lock(self) -> None:
        """Pin the first commit."""
        self.lock.write_text(LOCK.format(commit=self.commit, git=self.url, sha256=self.sha256, tree=self.tree))

    def next_commit(self, text: str = "project(y)\n") -> str:
        """Commit something else upstream."""
        (self.upstream / "CMakeLists.txt").write_text(text)
        git(self.upstream, "commit", "--quiet", "--all", "-m", "next")
        return git(self.upstream, "rev-parse", "HEAD")

    def vendor(self, *arguments: str) -> str:
        """Run it, which works; what it says."""
        done = self._run(arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """Run it, which is refused; why."""
        done = self._run(arguments)
        assert done.returncode == 1, done.stdout
        return done.stderr

    def _run(self, arguments: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.index)}
        return subprocess.run(
            [sys.executable, "-c", COMMAND, str(self.path), *arguments],
            env=os.environ | offline,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )

    def pin(self) -> dict[str, Any]:
        """The lock file's values."""
        return tomllib.loads(self.lock.read_text())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_the_folder_is_filled_at_the_pin_once(checkout: Checkout) -> None:
    assert "would fetch llama.cpp" in checkout.vendor("--dry-run")
    assert not checkout.place.exists()
    assert "filled third_party/llama.cpp" in checkout.vendor()
    assert git(checkout.place, "rev-parse", "HEAD") == checkout.commit
    assert checkout.vendor() == f"third_party/llama.cpp is at the pin, {checkout.commit[:12]}\n"
    assert [path.name for path in checkout.lock.parent.iterdir() if path.name.startswith("fetch-")] == []


def test_without_git_the_sdist_fills_it(checkout: Checkout) -> None:
    checkout.url = "file:///nowhere"
    checkout.write_lock()
    checkout.vendor()
    assert checksum(checkout.place) == checkout.tree
    assert "is at the pin" in checkout.vendor()


def test_a_submodule_is_registered(checkout: Checkout) -> None:
    assert "would register" in checkout.vendor("--submodule", "--dry-run")
    checkout.vendor("--submodule")
    assert git(checkout.path, "ls-files", "--stage", "third_party/llama.cpp").split()[:2] == [
        "160000",
        checkout.commit,
    ]
    assert f"url = {checkout.url}" in (checkout.path / ".gitmodules").read_text()
    commit = checkout.next_commit()
    checkout.vendor("--submodule", "--ref", commit)
    assert git(checkout.path, "ls-files", "--stage", "third_party/llama.cpp").split()[1] == commit


def test_an_sdist_can_be_no_submodule(checkout: Checkout) -> None:
    checkout.url = "file:///nowhere"
    checkout.write_lock()
    assert "only a git checkout can be a submodule" in checkout.refused("--submodule")


def test_the_pin_moves_to_a_tag_and_back_and_comments_stay(checkout: Checkout) -> None:
    first = checkout.lock.read_text()
    commit = checkout.next_commit()
    assert "the new pin has git alone to come from" in checkout.vendor("--ref", "main")
    assert (checkout.pin()["commit"], "sdist" in checkout.pin()) == (commit, False)
    assert "# What this is." in checkout.lock.read_text()
    assert git(checkout.place, "rev-parse", "HEAD") == commit
    checkout.vendor("--ref", "b1", "--sdist", "tiny-sdist==1.0")
    assert checkout.pin() == tomllib.loads(first)
    assert git(checkout.place, "rev-parse", "HEAD") == checkout.commit


def test_checksums_of_an_sdist_are_computed_again_and_comments_stay(checkout: Checkout) -> None:
    right = checkout.lock.read_text()
    checkout.lock.write_text(right.replace(checkout.sha256, "0" * 64).replace(checkout.tree, "1" * 64))
    checkout.vendor("--ref", checkout.commit, "--sdist", "tiny-sdist==1.0")
    assert checkout.lock.read_text() == right


def test_a_dry_run_shows_the_lock_and_changes_nothing(checkout: Checkout) -> None:
    before = checkout.lock.read_text()
    commit = checkout.next_commit()
    assert f'commit = "{commit}"' in checkout.vendor("--ref", "main", "--dry-run")
    assert checkout.lock.read_text() == before
    assert not checkout.place.exists()


def test_an_sdist_of_another_commit_is_refused(checkout: Checkout) -> None:
    before = checkout.lock.read_text()
    commit = checkout.next_commit()
    said = checkout.refused("--ref", commit, "--sdist", "tiny-sdist==1.0")
    assert f"error: tiny-sdist==1.0 does not hold llama.cpp {commit}: CMakeLists.txt differs" in said
    assert checkout.lock.read_text() == before


def test_a_ref_that_nobody_knows_is_refused(checkout: Checkout) -> None:
    assert "has no tag or branch b2; give one of its tags" in checkout.refused("--ref", "b2")
    assert f"cannot fetch {'f' * 40}: git said «" in checkout.refused("--ref", "f" * 40)
    assert "give --ref too" in checkout.refused("--sdist", "tiny-sdist==1.0")
    assert "names no version" in checkout.refused("--ref", "b1", "--sdist", "tiny-sdist")


def test_a_pin_that_our_patches_do_not_fit_is_refused(checkout: Checkout) -> None:
    patches = checkout.lock.parent / "patches"
    patches.mkdir()
    diff = "--- a/CMakeLists.txt\n+++ b/CMakeLists.txt\n@@ -1,1 +1,1 @@\n-project(x)\n+project(z)\n"
    (patches / "0001-named.patch").write_text(diff)
    before = checkout.lock.read_text()
    assert "the patch 0001-named does not fit" in checkout.refused("--ref", checkout.next_commit())
    assert checkout.lock.read_text() == before
    checkout.vendor("--ref", "b1")


def test_somebodys_work_is_left_alone(checkout: Checkout) -> None:
    checkout.vendor()
    (checkout.place / "CMakeLists.txt").write_text("project(mine)\n")
    assert "may be somebody's work (CMakeLists.txt); move it away" in checkout.refused()
    assert "may be somebody's work" in checkout.refused("--ref", "b1")
    assert (checkout.place / "CMakeLists.txt").read_text() == "project(mine)\n"
    git(checkout.place, "commit", "--quiet", "--all", "-m", "mine")
    mine = git(checkout.place, "rev-parse", "HEAD")
    checkout.vendor()
    assert git(checkout.place, "rev-parse", "HEAD") == checkout.commit
    assert git(checkout.place, "cat-file", "-t", mine) == "commit"


def test_outside_a_checkout_it_says_so(checkout: Checkout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = read_pin(checkout.lock)
    monkeypatch.setattr(source, "REPOSITORY", tmp_path / "site-packages")
    with pytest.raises(SourceError, match="`vendor` works in a checkout of runner-supervisor"):
        vendor(pin, move=None, submodule=False, dry_run=False, say=lambda _: None)
