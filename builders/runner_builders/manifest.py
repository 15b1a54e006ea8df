"""What was built: the JSON beside a binary, the one contract with the supervisor (docs/architecture.md)."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

FILE_NAME = "manifest.json"
SBOM_NAME = "sbom.cdx.json"
SCHEMA = 3


@dataclass(frozen=True, slots=True)
class Verified:
    """What a binary showed of itself: its version, the devices it sees, how many golden prompts it got right.

    `notices` are what was let pass, in words.
    """

    version: str
    devices: tuple[str, ...] = ()
    goldens: int = 0
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Manifest:
    """One build. `files` maps each file to its SHA-256; `binary` is the one of them to run. `asked` are those of the
    options that somebody asked for.

    Names are relative to the manifest's folder, which holds nothing else (but the SBOM), or absolute for a prebuilt
    llama-server.
    """

    binary: str
    files: dict[str, str]
    backend: str
    commit: str
    patches: dict[str, str]
    origin: str
    options: dict[str, str]
    asked: dict[str, str]
    compiler: str
    cpu: str
    verified: Verified
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
        if fields.get("schema") != SCHEMA:
            return None
        seen = fields["verified"]
        verified = Verified(**seen | {"devices": tuple(seen["devices"]), "notices": tuple(seen["notices"])})
        return Manifest(**fields | {"verified": verified})
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def damage(folder: Path, manifest: Manifest) -> list[str]:
    """How the files in `folder` differ from what the manifest says, in words; nothing when they do not.

    A file that is not in the manifest counts: a llama-server loads backends from where it lies.
    """
    found = []
    for name, expected in manifest.files.items():
        actual = sha256_of(folder / name) if (folder / name).is_file() else None
        if actual is None:
            found.append(f"{name} is missing")
        elif actual != expected:
            found.append(f"{name} has sha256 {actual}, but was built with {expected}")
    known = {FILE_NAME, SBOM_NAME, *manifest.files}
    found += [f"{path.name} was not built" for path in sorted(folder.iterdir()) if path.name not in known]
    return found


def digests(folder: Path) -> dict[str, str]:
    """Every file in a folder, by name, with its SHA-256; where several names are one file it is read once."""
    by_file: dict[Path, str] = {}
    found = {}
    for path in sorted(folder.iterdir()):
        file = path.resolve()
        by_file[file] = by_file.get(file) or sha256_of(file)
        found[path.name] = by_file[file]
    return found


def sha256_of(path: Path) -> str:
    """A file's SHA-256, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
