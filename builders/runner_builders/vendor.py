"""Fills `third_party/llama.cpp` at the pin, and moves the pin. Works in a checkout of this repository alone."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from runner_builders.errors import SourceError
from runner_builders.fetch import Say, change_in, download_sdist, fetch, fetch_commit, git, resolve, unpack
from runner_builders.manifest import sha256_of
from runner_builders.patches import apply
from runner_builders.pin import Pin, Sdist, lock_path, moved
from runner_builders.source import vendored, verified
from runner_builders.tree import checksum, copy, differences

USUAL_SUBDIRECTORY = "vendor/llama.cpp"


@dataclass(frozen=True, slots=True)
class Move:
    """Where the pin is to go: a commit or tag, and an sdist of the same (`name==version`), if there is one."""

    ref: str
    sdist: str | None


def vendor(pin: Pin, *, move: Move | None, submodule: bool, dry_run: bool, say: Say) -> Pin:
    """Make `third_party/llama.cpp` the pinned source, with `submodule` as a git submodule; return the pin.

    With a move the new pin is written into the lock file once its source is there, is what it says, and our patches
    fit it. A dry run does all but change anything.

    Raises:
        SourceError: the source cannot be had or is not what it should be, or what is there is somebody's work.
    """
    place = vendored()
    if not place.parent.is_dir():
        raise SourceError("there is no third_party folder here; `vendor` works in a checkout of runner-supervisor")
    if not move and _is_at(pin, place):
        say(f"third_party/llama.cpp is at the pin, {pin.commit[:12]}")
    elif not move and dry_run:
        say(f"would fetch llama.cpp {pin.commit[:12]} into third_party/llama.cpp")
    else:
        _require_replaceable(place, pin)
        with tempfile.TemporaryDirectory(dir=place.parent, prefix="fetch-") as folder:
            tree = Path(folder) / "tree"
            if move:
                pin = _moved(pin, move, tree, say)
            else:
                fetch(pin, tree, say)
            if not dry_run:
                _put(tree, place)
        if move:
            _write(pin, dry_run=dry_run, say=say)
        say(f"{'would fill' if dry_run else 'filled'} third_party/llama.cpp with llama.cpp {pin.commit[:12]}")
    if submodule:
        _register(place, pin, dry_run=dry_run, say=say)
    return pin


def _is_at(pin: Pin, place: Path) -> bool:
    try:
        verified(place, pin, origin="third_party/llama.cpp")
    except SourceError:
        return False
    return True


def _require_replaceable(place: Path, pin: Pin) -> None:
    """Nothing that somebody may miss: an unchanged checkout keeps its commits, a tree at the pin can be had again."""
    if not place.exists() or not any(place.iterdir()) or _is_at(pin, place):
        return
    change = change_in(place) if (place / ".git").exists() else "which is no git checkout"
    if change:
        raise SourceError(
            f"{place} is not what is pinned, and may be somebody's work ({change}); move it away, then vendor again"
        )


def _moved(pin: Pin, move: Move, tree: Path, say: Say) -> Pin:
    """The pin moved, its source in `tree`, and the patches found to fit."""
    commit = resolve(pin.git, move.ref)
    say(f"fetching llama.cpp {commit[:12]} by git")
    git_says = fetch_commit(pin.git, commit, tree)
    if git_says and not move.sdist:
        raise SourceError(
            f"cannot fetch {commit}: git said «{git_says}»; check the network, or name an --sdist of it"
        )
    sdist = None
    if move.sdist:
        subdirectory = pin.sdist.subdirectory if pin.sdist else USUAL_SUBDIRECTORY
        unpacked = tree.with_name("unpacked")
        sdist = _pin_sdist(move.sdist, subdirectory, unpacked)
        if git_says:
            say(f"no luck with git ({git_says}): that {move.sdist} holds {commit[:12]} is taken on trust")
            shutil.rmtree(tree)
            unpacked.rename(tree)
        elif wrong := differences(unpacked, tree):
            raise SourceError(
                f"{move.sdist} does not hold llama.cpp {commit}: {wrong[0]} differs; name another --sdist"
            )
    else:
        say("without --sdist the new pin has git alone to come from")
    trial = tree.with_name("patched")
    copy(tree, trial)
    apply(pin.patches, trial)
    return replace(pin, commit=commit, sdist=sdist)


def _pin_sdist(requirement: str, subdirectory: str, unpacked: Path) -> Sdist:
    archive = download_sdist(requirement, None, unpacked.with_name("downloads"))
    if isinstance(archive, str):
        raise SourceError(f"cannot fetch {requirement}: pip said «{archive}»; check name, version and network")
    unpack(archive, subdirectory, unpacked)
    if not (unpacked / "CMakeLists.txt").exists():
        raise SourceError(f"{requirement} holds no llama.cpp in {subdirectory}; name another --sdist")
    return Sdist(requirement, sha256_of(archive), subdirectory, checksum(unpacked))


def _put(tree: Path, place: Path) -> None:
    """A checkout that is there goes to the new commit and keeps its own; anything else is replaced."""
    if (place / ".git").exists() and (tree / ".git").exists():
        _must(["fetch", "--quiet", "--depth", "1", tree.as_uri(), "HEAD"], cwd=place)
        _must(["checkout", "--quiet", "--detach", "FETCH_HEAD"], cwd=place)
        return
    shutil.rmtree(place, ignore_errors=True)
    tree.rename(place)


def _write(pin: Pin, *, dry_run: bool, say: Say) -> None:
    path = lock_path()
    text = moved(path.read_text(encoding="utf-8"), commit=pin.commit, sdist=pin.sdist)
    if dry_run:
        say(f"would write {path}:\n{text}")
        return
    temporary = path.with_suffix(".new")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
    say(f"the pin in {path} is {pin.commit[:12]}")


def _register(place: Path, pin: Pin, *, dry_run: bool, say: Say) -> None:
    """Make the checkout a submodule of the repository around it. It is ignored there, hence --force."""
    if dry_run:
        say(f"would register third_party/llama.cpp as a submodule from {pin.git}")
        return
    if not (place / ".git").exists():
        raise SourceError(
            "only a git checkout can be a submodule, and this source came from an sdist; fetch it by git"
        )
    repository = place.parents[1]
    name = place.relative_to(repository).as_posix()
    _must(["submodule", "--quiet", "add", "--force", "--name", "llama.cpp", pin.git, name], cwd=repository)
    _must(["add", "--force", name], cwd=repository)
    say("third_party/llama.cpp is a submodule; commit .gitmodules and third_party to keep it")


def _must(arguments: list[str], *, cwd: Path) -> None:
    outcome = git(arguments, cwd=cwd)
    if not outcome.ok:
        raise SourceError(f"git {arguments[0]} failed in {cwd}: {outcome.last}")
