"""What was built: the JSON beside a binary, the one contract with the supervisor (docs/architecture.md)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE_NAME = "manifest.json"
SCHEMA = 3


@dataclass(frozen=True, slots=True)
class Manifest:
    """One build. `binary` is relative to the manifest's folder (or absolute for a prebuilt one).

    `asked` are those of the options that somebody asked for.
    """

    binary: str
    sha256: str
    backend: str
    commit: str
    patches: dict[str, str]
    origin: str
    options: dict[str, str]
    asked: dict[str, str]
    compiler: str
    cpu: str
    version: str
    duration_s: float
    schema: int = SCHEMA

    def write(self, folder: Path) -> Path:
        """Write it into `folder` atomically and return the file's path."""
        path = folder / FILE_NAME
        temporary = path.with_suffix(".new")
        temporary.write_text(json.dumps(asdict(self), indent=2) + "\n")
        temporary.replace(path)
        return path


def read_manifest(path: Path) -> Manifest | None:
    """Read a manifest; None when there is none of this schema."""
    try:
        fields = json.loads(path.read_text())
        return Manifest(**fields) if fields.get("schema") == SCHEMA else None
    except (OSError, ValueError, TypeError):
        return None


def sha256_of(path: Path) -> str:
    """A file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
