"""Wheels from the package index, whose libraries a build needs, unpacked in the cache."""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

from filelock import FileLock

from runner_builders.errors import BuilderError
from runner_builders.fetch import Say
from runner_builders.plan import Wheel
from runner_builders.run import run

DOWNLOAD_TIMEOUT_S = 1800.0


def fetch(wheel: Wheel, *, say: Say) -> None:
    """Download a wheel, unless it is there, and unpack it whole or not at all.

    pip has it from the index with this machine's own settings, and checks it against the index's hash.

    Raises:
        BuilderError: it cannot be had, or there is no room for it.
    """
    wheel.folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{wheel.folder}.lock", timeout=DOWNLOAD_TIMEOUT_S):
        if wheel.folder.exists():
            return
        say(f"fetching {wheel.requirement} from the package index")
        with tempfile.TemporaryDirectory(dir=wheel.folder.parent, prefix="fetch-") as name:
            try:
                _unpack(_download(wheel.requirement, Path(name)), Path(name, "tree"))
                Path(name, "tree").rename(wheel.folder)
            except (OSError, zipfile.BadZipFile) as error:
                raise BuilderError(f"cannot unpack {wheel.requirement}: {error}; make room in the cache") from None


def _download(requirement: str, folder: Path) -> Path:
    outcome = run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"),
            *("--dest", str(folder), requirement),
        ],
        timeout_s=DOWNLOAD_TIMEOUT_S,
    )
    wheels = list(folder.glob("*.whl"))
    if not outcome.ok or len(wheels) != 1:
        why = "it took too long" if outcome.timed_out else outcome.last
        raise BuilderError(
            f"cannot fetch {requirement}: pip said «{why}»; check the network, or install the toolkit's cuBLAS "
            "and use --cuda-libs toolkit"
        )
    return wheels[0]


def _unpack(wheel: Path, tree: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tree)
    wheel.unlink()
    for library in tree.rglob("lib*.so.*"):
        link = library.with_name(library.name.partition(".so")[0] + ".so")
        link.unlink(missing_ok=True)
        link.symlink_to(library.name)  # the linker asks for the name without a version
