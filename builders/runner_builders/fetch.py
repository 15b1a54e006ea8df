"""Gets a llama.cpp tree over the network: one commit by git, or the package index's sdist by pip, verified."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import tenacity

from runner_builders.errors import SourceError
from runner_builders.manifest import sha256_of
from runner_builders.pin import Pin, Sdist
from runner_builders.run import Outcome, run
from runner_builders.tree import checksum

GIT_TIMEOUT_S = 600.0
PIP_TIMEOUT_S = 900.0

PASSING_FAULT = re.compile(r"early EOF|RPC failed|reset by peer|hung up|HTTP 5\d\d|error: 5\d\d")

Say = Callable[[str], None]


def fetch(pin: Pin, tree: Path, say: Say) -> str:
    """Make `tree`, which does not exist, the pinned source; by git, else from the sdist. Says which of them.

    Raises:
        SourceError: neither can be had, or one is not what is pinned.
    """
    say(f"fetching llama.cpp {pin.commit[:12]} by git")
    git_says = fetch_commit(pin.git, pin.commit, tree)
    if git_says is None:
        return "git"
    shutil.rmtree(tree, ignore_errors=True)
    pip_says = "no sdist is pinned"
    if pin.sdist:
        say(f"no luck with git ({git_says}); fetching the same source in {pin.sdist.requirement} by pip")
        answer = _fetch_sdist(pin.sdist, tree)
        if answer is None:
            return "sdist"
        pip_says = answer
    raise SourceError(
        f"cannot fetch llama.cpp: git said «{git_says}», pip said «{pip_says}»; check the network, or put "
        f"a checkout of {pin.git} at {pin.commit} into third_party/llama.cpp or name one with --source"
    )


def fetch_commit(url: str, commit: str, tree: Path) -> str | None:
    """Check one commit out in `tree`, which does not exist; None when it worked, else why not."""
    tree.mkdir()
    for arguments in (
        ["init", "--quiet"],
        ["fetch", "--quiet", "--depth", "1", url, commit],
        ["checkout", "--quiet", "--detach", "FETCH_HEAD"],
    ):
        outcome = git(arguments, cwd=tree)
        if not outcome.ok:
            return outcome.last or f"exit code {outcome.code}"
    found = commit_of(tree)
    if found != commit:
        raise SourceError(f"git fetched commit {found}, but {commit} is wanted; check the pin's git URL")
    return None


def resolve(url: str, ref: str) -> str:
    """The commit that a tag or branch of a repository stands for; a whole commit id stands for itself.

    Raises:
        SourceError: the repository does not know it, or does not answer.
    """
    if re.fullmatch(r"[0-9a-f]{40}", ref):
        return ref
    outcome = git(["ls-remote", url, ref, f"{ref}^{{}}"], cwd=None)
    if not outcome.ok:
        raise SourceError(f"cannot ask {url} for {ref}: {outcome.last}; check the network, or give a whole commit id")
    lines = [line.partition("\t") for line in outcome.tail]
    found = {name: commit for commit, _, name in lines}
    for name in (f"refs/tags/{ref}^{{}}", f"refs/tags/{ref}", f"refs/heads/{ref}"):  # ^{}: what a tag is of
        if name in found:
            return found[name]
    raise SourceError(f"{url} has no tag or branch {ref}; give one of its tags, or a whole commit id")


def commit_of(tree: Path) -> str | None:
    """The commit that git has checked out in exactly this folder, or None."""
    if not (tree / ".git").exists():
        return None
    outcome = git(["rev-parse", "HEAD"], cwd=tree)
    return outcome.last if outcome.ok else None


def change_in(tree: Path) -> str | None:
    """The first file of a checkout that is not as it was committed, or was never committed; None: there is none.

    Raises:
        SourceError: git cannot tell.
    """
    outcome = git(["status", "--porcelain", "--ignore-submodules"], cwd=tree)
    if not outcome.ok:
        raise SourceError(f"git cannot tell whether {tree} was changed: {outcome.last}; use a fresh checkout")
    return next((line[3:] for line in outcome.tail if line.strip()), None)


def download_sdist(requirement: str, sha256: str | None, folder: Path) -> Path | str:
    """Download an sdist into a new folder: its path, or why that failed.

    With a hash pip checks it before it looks inside the archive, whose metadata it then asks for.

    Raises:
        SourceError: the archive has another hash.
    """
    folder.mkdir()
    requirements = folder.with_suffix(".txt")
    requirements.write_text(requirement + (f" --hash=sha256:{sha256}\n" if sha256 else "\n"))
    name = requirement.partition("==")[0]
    outcome = run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name),
            *(("--require-hashes",) if sha256 else ()),
            *("--requirement", str(requirements), "--dest", str(folder)),
        ],
        timeout_s=PIP_TIMEOUT_S,
        guarded=True,
    )
    got = re.search(r"Got\s+([0-9a-f]{64})", "\n".join(outcome.tail))
    if got and sha256:
        raise _mismatch(requirement, got[1], sha256)
    archives = list(folder.glob("*.tar.gz"))
    if not outcome.ok or len(archives) != 1:
        return outcome.last or f"exit code {outcome.code}"
    digest = sha256_of(archives[0])
    if sha256 and digest != sha256:
        raise _mismatch(requirement, digest, sha256)
    return archives[0]


def unpack(archive: Path, subdirectory: str, tree: Path) -> None:
    """Unpack one folder of the archive as `tree`, without the mark of the repository it was a part of."""
    with tarfile.open(archive) as tar:
        members = []
        for member in tar.getmembers():
            inside = Path(*Path(member.name).parts[1:])
            if inside.is_relative_to(subdirectory) and inside != Path(subdirectory, ".git"):
                member.name = str(inside.relative_to(subdirectory))
                members.append(member)
        if hasattr(tarfile, "data_filter"):  # since Python 3.11.4; Debian 12 has 3.11.2
            tar.extraction_filter = staticmethod(tarfile.data_filter)
        tar.extractall(tree, members=members)  # noqa: S202  # nosec B202


def git(arguments: list[str], *, cwd: Path | None) -> Outcome:
    """Run git; a connection that broke is tried again. It asks nobody, and answers for no folder around `cwd`."""
    ceiling = {"GIT_CEILING_DIRECTORIES": str(cwd.parent)} if cwd else {}
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_exponential_jitter(initial=1, max=10),
        retry=tenacity.retry_if_result(_is_passing),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"} | ceiling
    return retrying(run, ["git", *arguments], cwd=cwd, timeout_s=GIT_TIMEOUT_S, environment=environment, guarded=True)


def _fetch_sdist(sdist: Sdist, tree: Path) -> str | None:
    """Download and unpack the sdist; None when it worked, else why not."""
    archive = download_sdist(sdist.requirement, sdist.sha256, tree.with_name("downloads"))
    if isinstance(archive, str):
        return archive
    unpack(archive, sdist.subdirectory, tree)
    found = checksum(tree)
    if found != sdist.tree_sha256:
        raise SourceError(
            f"the tree in {sdist.requirement} has sha256 {found}, but {sdist.tree_sha256} is pinned; "
            "the lock file is at odds with itself: move the pin again with `runner-supervisor vendor --ref`"
        )
    return None


def _mismatch(requirement: str, digest: str, pinned: str) -> SourceError:
    return SourceError(
        f"{requirement} has sha256 {digest}, but {pinned} is pinned; do not use this archive: "
        "find out why the package index serves another one"
    )


def _is_passing(outcome: Outcome) -> bool:
    """Whether a failed download is worth another try: the connection broke, or the server was busy."""
    return not outcome.ok and any(PASSING_FAULT.search(line) for line in outcome.tail)
