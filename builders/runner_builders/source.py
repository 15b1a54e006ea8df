"""llama.cpp's source at the pin: the first that is there, else fetched, always verified.

An explicit folder; `third_party/llama.cpp`; the cache; git (one commit, shallow); the package index's sdist.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tenacity
from filelock import FileLock

from runner_builders.errors import SourceError
from runner_builders.manifest import sha256_of
from runner_builders.pin import REPOSITORY, Pin
from runner_builders.run import Outcome, run

GIT_TIMEOUT_S = 600.0
PIP_TIMEOUT_S = 900.0
QUICK_TIMEOUT_S = 30.0
STAMP = ".runner-source.json"
"""Written into a source tree that was verified when it was fetched."""

PASSING_FAULT = re.compile(r"early EOF|RPC failed|reset by peer|hung up|HTTP 5\d\d|error: 5\d\d")

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A verified source tree and where it came from."""

    path: Path
    commit: str
    origin: str


def find_source(pin: Pin, *, explicit: Path | None, cache: Path, say: Say) -> Source:
    """Find or fetch the pinned source.

    Args:
        pin: which commit.
        explicit: a folder that the user named.
        cache: the folder that keeps fetched sources.
        say: told what is being done, in words.

    Raises:
        SourceError: what was found is not the pinned commit (both are named), or nothing can be fetched.
    """
    if explicit:
        return _verify(explicit, pin, origin=f"directory {explicit}")
    vendored = REPOSITORY / "third_party" / "llama.cpp"
    if (vendored / "CMakeLists.txt").exists():
        return _verify(vendored, pin, origin="third_party/llama.cpp")
    cached = cache / "sources" / pin.commit
    if (cached / STAMP).exists():
        return _verify(cached, pin, origin="cache")
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"source-{pin.commit}.lock", timeout=PIP_TIMEOUT_S):
        if not (cached / STAMP).exists():
            _fill(cached, pin, say)
            return Source(path=cached, commit=pin.commit, origin=_origin_of(cached))
    return _verify(cached, pin, origin="cache")


def _fill(cached: Path, pin: Pin, say: Say) -> None:
    """Fetch into the cache; the tree appears there whole or not at all."""
    with tempfile.TemporaryDirectory(dir=cached.parent, prefix="fetch-") as folder:
        origin = _fetch(pin, Path(folder) / "tree", say)
        tree = Path(folder) / "tree"
        (tree / STAMP).write_text(json.dumps({"commit": pin.commit, "origin": origin}))
        shutil.rmtree(cached, ignore_errors=True)
        tree.rename(cached)


def _origin_of(tree: Path) -> str:
    return str(json.loads((tree / STAMP).read_text())["origin"])


def _verify(path: Path, pin: Pin, *, origin: str) -> Source:
    if not (path / "CMakeLists.txt").exists():
        raise SourceError(f"no llama.cpp source in {path} (no CMakeLists.txt there); name its top folder")
    found = _commit_of(path)
    if found != pin.commit:
        raise SourceError(
            f"the source in {path} is at commit {found or 'unknown'}, but {pin.commit} is pinned; "
            "check that commit out, or leave the folder out to have it fetched"
        )
    return Source(path=path, commit=found, origin=origin)


def _commit_of(path: Path) -> str | None:
    try:
        return str(json.loads((path / STAMP).read_text())["commit"])
    except (OSError, ValueError, KeyError):
        pass
    if not (path / ".git").exists():
        return None
    # The ceiling keeps git from answering for a repository that this folder merely lies in.
    environment = os.environ | {"GIT_CEILING_DIRECTORIES": str(path.parent)}
    outcome = run(["git", "-C", str(path), "rev-parse", "HEAD"], timeout_s=QUICK_TIMEOUT_S, environment=environment)
    return outcome.last if outcome.ok else None


def _fetch(pin: Pin, tree: Path, say: Say) -> str:
    say(f"fetching llama.cpp {pin.commit[:12]} by git")
    git_says = _fetch_by_git(pin, tree)
    if git_says is None:
        return "git"
    shutil.rmtree(tree, ignore_errors=True)
    say(f"no luck with git ({git_says}); fetching the same source in {pin.sdist_requirement} from the package index")
    pip_says = _fetch_sdist(pin, tree)
    if pip_says is None:
        return "sdist"
    raise SourceError(
        f"cannot fetch llama.cpp: git said «{git_says}», pip said «{pip_says}»; check the network, or put "
        f"a checkout of {pin.git} at {pin.commit} into third_party/llama.cpp or name one with --source"
    )


def _is_passing(outcome: Outcome) -> bool:
    """Whether a failed download is worth another try: the connection broke, or the server was busy."""
    return not outcome.ok and any(PASSING_FAULT.search(line) for line in outcome.tail)


def _fetch_by_git(pin: Pin, tree: Path) -> str | None:
    """Fetch one commit; None when it worked, else why not."""
    tree.mkdir()
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(3),
        wait=tenacity.wait_exponential_jitter(initial=1, max=10),
        retry=tenacity.retry_if_result(_is_passing),
        retry_error_callback=lambda state: state.outcome and state.outcome.result(),
    )
    for arguments in (
        ["init", "--quiet"],
        ["fetch", "--quiet", "--depth", "1", pin.git, pin.commit],
        ["checkout", "--quiet", "--detach", "FETCH_HEAD"],
    ):
        outcome = retrying(run, ["git", *arguments], cwd=tree, timeout_s=GIT_TIMEOUT_S, environment=environment)
        if not outcome.ok:
            return outcome.last or f"exit code {outcome.code}"
    found = _commit_of(tree)
    if found != pin.commit:
        raise SourceError(f"git fetched commit {found}, but {pin.commit} is pinned; check the pin's git URL")
    return None


def _fetch_sdist(pin: Pin, tree: Path) -> str | None:
    """Download and unpack the sdist; None when it worked, else why not.

    pip checks the hash itself before it looks inside the archive, whose metadata it then asks for.
    """
    downloads = tree.with_name("downloads")
    downloads.mkdir()
    requirements = tree.with_name("requirements.txt")
    requirements.write_text(f"{pin.sdist_requirement} --hash=sha256:{pin.sdist_sha256}\n")
    name = pin.sdist_requirement.partition("==")[0]
    outcome = run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", name),
            *("--require-hashes", "--requirement", str(requirements), "--dest", str(downloads)),
        ],
        timeout_s=PIP_TIMEOUT_S,
    )
    _refuse_mismatch("\n".join(outcome.tail), pin)
    archives = list(downloads.glob("*.tar.gz"))
    if not outcome.ok or len(archives) != 1:
        return outcome.last or f"exit code {outcome.code}"
    digest = sha256_of(archives[0])
    if digest != pin.sdist_sha256:
        raise _mismatch(pin, digest)
    _unpack(archives[0], pin.sdist_subdirectory, tree)
    return None


def _refuse_mismatch(output: str, pin: Pin) -> None:
    got = re.search(r"Got\s+([0-9a-f]{64})", output)
    if got:
        raise _mismatch(pin, got[1])


def _mismatch(pin: Pin, digest: str) -> SourceError:
    return SourceError(
        f"{pin.sdist_requirement} has sha256 {digest}, but {pin.sdist_sha256} is pinned; do not use this archive: "
        "find out why the package index serves another one"
    )


def _unpack(archive: Path, subdirectory: str, tree: Path) -> None:
    """Unpack one folder of the archive as `tree`."""
    with tarfile.open(archive) as tar:
        members = []
        for member in tar.getmembers():
            inside = Path(*Path(member.name).parts[1:])
            if inside.is_relative_to(subdirectory) and inside != Path(subdirectory, ".git"):
                member.name = str(inside.relative_to(subdirectory))
                members.append(member)
        tar.extractall(tree, members=members, filter="data")
