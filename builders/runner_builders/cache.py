"""Where sources and builds are kept, and which build is in use.

CACHE/sources/<commit>/        fetched source trees
CACHE/compile/<key>-<source>/  compile folders, kept so that a build that was cut short can go on
CACHE/builds/<key>/            finished builds: binary and manifest
CACHE/current.json             which build `start` uses
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from runner_builders.manifest import FILE_NAME, Manifest, read_manifest, sha256_of


@dataclass(frozen=True, slots=True)
class Cache:
    """The cache below `root`."""

    root: Path

    def build_dir(self, key: str) -> Path:
        """A finished build's folder."""
        return self.root / "builds" / key

    def compile_dir(self, key: str, source: Path) -> Path:
        """The folder in which this source is compiled; cmake ties one to the source it was made for."""
        return self.root / "compile" / f"{key}-{hashlib.sha256(os.fsencode(source)).hexdigest()[:8]}"

    def lock_path(self, key: str) -> Path:
        """Held while a key is built."""
        return self.root / "compile" / f"{key}.lock"

    def finished(self, key: str) -> tuple[Path, Manifest] | None:
        """A finished build and its manifest's path, or None: there is none, or its binary is not what was built."""
        path = self.build_dir(key) / FILE_NAME
        manifest = read_manifest(path)
        if manifest is None:
            return None
        binary = path.parent / manifest.binary
        if not os.access(binary, os.X_OK) or sha256_of(binary) != manifest.sha256:
            return None
        return path, manifest

    def current(self) -> tuple[Path, Manifest] | None:
        """The build in use, or None."""
        try:
            key = json.loads((self.root / "current.json").read_text())["key"]
        except (OSError, ValueError, KeyError):
            return None
        return self.finished(str(key))

    def use(self, key: str) -> None:
        """Make `key` the build in use, atomically."""
        temporary = self.root / "current.json.new"
        temporary.write_text(json.dumps({"key": key}) + "\n")
        temporary.replace(self.root / "current.json")


def default_cache() -> Cache:
    """The user's cache, or RUNNER_CACHE_DIR."""
    named = os.environ.get("RUNNER_CACHE_DIR")
    return Cache(Path(named).absolute() if named else platformdirs.user_cache_path("runner-supervisor"))
