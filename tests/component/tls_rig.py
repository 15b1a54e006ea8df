"""Certificates of an authority that exists for one test, in files as an administrator would have them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Files:
    """A certificate and its key in PEM files, and whom clients trust."""

    certificate: Path
    key: Path
    authority: trustme.CA

    def issue(self) -> None:
        """Put another certificate of the same authority in their place."""
        made = self.authority.issue_cert("127.0.0.1", "localhost")
        self.key.write_bytes(made.private_key_pem.bytes())
        self.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))

    def client(self) -> ssl.SSLContext:
        """How a client connects that trusts the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


def issue(folder: Path) -> Files:
    """A new authority, and a first certificate of it."""
    files = Files(folder / "chain.pem", folder / "key.pem", trustme.CA())
    files.issue()
    return files
