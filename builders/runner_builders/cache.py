"""Where sources and builds are kept, and which build is in use.

CACHE/sources/<commit>/        fetched source trees
CACHE/compile/<key>-<source>/  compile folders, kept so that a build that was cut short can go on
CACHE/compile/<key>.lock       held while a key is built
CACHE/builds/<key>/            finished builds: manifest, SBOM, binary and libraries
CACHE/prebuilt/<folder>/       manifests of what LLAMA_CPP_DIR named
CACHE/current.json             which build `start` uses, and which were used before it
CACHE/durations.json           what each step of the last compile took, for the time left of the next
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from runner_builders.errors import BuilderError
from runner_builders.manifest import FILE_NAME, Manifest, damage, read_manifest

REMEMBERED = 10
USE_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache below `root`."""

    root: Path

    def build_dir(self, key: str) -> Path:
        """A finished build's folder."""
        return self.root / "builds" / key

    def compile_dir(self, key: str, source: Path) -> Path:
        """The folder in which this source is compiled; cmake ties one to the source it was made for."""
        return self.root / "compile" / f"{key}-{_short(source)}"

    def prebuilt_dir(self, binary: Path) -> Path:
        """The folder for the manifest of a binary that lies elsewhere."""
        return self.root / "prebuilt" / _short(binary)

    def lock_path(self, key: str) -> Path:
        """Held while a key is built."""
        return self.root / "compile" / f"{key}.lock"

    def present(self, key: str) -> tuple[Path, Manifest] | None:
        """A finished build and its manifest's path, or None: there is none, or a file of it is gone."""
        path = self.build_dir(key) / FILE_NAME
        manifest = read_manifest(path)
        if manifest is None or not os.access(path.parent / manifest.binary, os.X_OK):
            return None
        return (path, manifest) if all((path.parent / name).is_file() for name in manifest.files) else None

    def finished(self, key: str) -> tuple[Path, Manifest] | None:
        """A build that is present and, byte for byte, what was built; else None."""
        found = self.present(key)
        return found if found and not damage(found[0].parent, found[1]) else None

    def current(self) -> tuple[Path, Manifest] | None:
        """The build in use, or None. Its bytes are not looked at: who runs it does that."""
        used = self.used()
        return self.present(used[0]) if used else None

    def used(self) -> tuple[str, ...]:
        """Keys in use: the current one, then those before it, latest first."""
        try:
            fields = json.loads((self.root / "current.json").read_text())
            return (str(fields["key"]), *(str(key) for key in fields.get("before", ())))
        except (OSError, ValueError, KeyError, TypeError):
            return ()

    def use(self, key: str) -> None:
        """Make `key` the build in use, atomically."""
        with self._changing():
            used = self.used()
            if used[:1] != (key,):
                self._write((key, *(other for other in used if other != key)))

    def rollback(self) -> str:
        """Go back to the build that was used before the current one and is still there; return its key.

        Raises:
            BuilderError: there is none.
        """
        with self._changing():
            before = [key for key in self.used()[1:] if self.present(key)]
            if not before:
                raise BuilderError("no build was used before this one; `runner-supervisor builds list` shows all")
            self._write(tuple(before))
        return before[0]

    def _changing(self) -> FileLock:
        return FileLock(self.root / "current.lock", timeout=USE_TIMEOUT_S)

    def _write(self, used: tuple[str, ...]) -> None:
        _write_json(self.root / "current.json", {"key": used[0], "before": used[1 : 1 + REMEMBERED]})

    def durations(self) -> dict[str, float]:
        """Seconds that compile steps took, by what they made."""
        try:
            return {str(step): float(took_s) for step, took_s in json.loads(self._durations.read_text()).items()}
        except (OSError, ValueError, TypeError, AttributeError):
            return {}

    def keep_durations(self, took_s: dict[str, float]) -> None:
        """Remember what compile steps took, in seconds."""
        _write_json(self._durations, self.durations() | took_s)

    @property
    def _durations(self) -> Path:
        return self.root / "durations.json"

    @contextlib.contextmanager
    def staging(self, key: str) -> Iterator[Path]:
        """A folder for what is to become a build; hand it to `install`, or it is removed. Hold the key's lock."""
        builds = self.root / "builds"
        builds.mkdir(parents=True, exist_ok=True)
        for left in builds.glob(f"new-{key}-*"):  # by somebody who was killed
            shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(dir=builds, prefix=f"new-{key}-"))
        folder.chmod(0o755)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def install(self, staging: Path, key: str) -> Path:
        """Put a staged build in place by one rename and return its manifest's path."""
        destination = self.build_dir(key)
        if destination.exists():  # damaged, or of another schema
            old = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f"new-{key}-"))
            destination.rename(old / key)
            shutil.rmtree(old, ignore_errors=True)
        staging.rename(destination)
        return destination / FILE_NAME


def _write_json(path: Path, fields: object) -> None:
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(fields) + "\n")
    temporary.replace(path)


def _short(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:8]


def default_cache() -> Cache:
    """The user's cache, or RUNNER_CACHE_DIR."""
    named = os.environ.get("RUNNER_CACHE_DIR")
    return Cache(Path(named).absolute() if named else platformdirs.user_cache_path("runner-supervisor"))
