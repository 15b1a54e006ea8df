"""The pages' files, read once: served with a strong ETag and a policy under which they run their own code alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TYPES: Mapping[str, str] = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

POLICY = "; ".join(
    (
        "default-src 'none'",
        "connect-src 'self'",
        "img-src 'self'",
        "script-src 'self'",
        "style-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)
"""Nothing from elsewhere, nothing inline, and no text ever becomes markup: what a model writes stays text."""


@dataclass(frozen=True, slots=True)
class File:
    """One file as it is served."""

    body: bytes
    headers: Mapping[str, str]

    def matches(self, etags: str) -> bool:
        """Whether a client that has these (the value of If-None-Match) has this (RFC 9110, 13.1.2)."""
        known = {each.strip().removeprefix("W/") for each in etags.split(",")}
        return bool(known & {self.headers["etag"], "*"})


def read_files(folder: Path = HERE) -> dict[str, File]:
    """Every file below `folder` that a browser may ask for, by its name."""
    paths = (path for path in folder.rglob("*") if path.suffix in TYPES)
    return {path.name: _file(path.read_bytes(), TYPES[path.suffix]) for path in paths}


def _file(body: bytes, kind: str) -> File:
    return File(
        body,
        {
            "content-type": kind,
            "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
            "cache-control": "no-cache",
            "content-security-policy": POLICY,
        },
    )
