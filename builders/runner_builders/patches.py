"""Our changes to llama.cpp: `third_party/patches/*.patch`, applied in the order of their names."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path

import patch_ng

from runner_builders.errors import SourceError


@dataclass(frozen=True, slots=True)
class Patch:
    """One change, as a unified diff against llama.cpp's top folder."""

    name: str
    diff: bytes

    @property
    def sha256(self) -> str:
        """Of the diff, in hex."""
        return hashlib.sha256(self.diff).hexdigest()


def read_patches(folder: Path) -> tuple[Patch, ...]:
    """The patches in a folder, in the order in which they are applied."""
    return tuple(Patch(path.stem, path.read_bytes()) for path in sorted(folder.glob("*.patch")))


def fingerprints(patches: tuple[Patch, ...]) -> dict[str, str]:
    """Patches as a manifest names them: name → sha256."""
    return {patch.name: patch.sha256 for patch in patches}


def apply(patches: tuple[Patch, ...], tree: Path) -> None:
    """Apply patches to a source tree, which is ours to change.

    Raises:
        SourceError: one does not fit the tree.
    """
    logging.getLogger("patch_ng").setLevel(logging.CRITICAL)  # what it has to say, the error says
    for patch in patches:
        parsed = patch_ng.fromstring(patch.diff)
        if not parsed or not parsed.apply(strip=1, root=str(tree), fuzz=False):
            raise SourceError(
                f"the patch {patch.name} does not fit llama.cpp's source in {tree}: it was changed; "
                "use an unchanged checkout, or leave the folder out to have it fetched"
            )
