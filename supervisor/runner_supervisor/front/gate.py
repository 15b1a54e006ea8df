"""Who is asking: a key, or whoever can reach an open loopback address."""

from __future__ import annotations

from runner_supervisor.core.admission import Share
from runner_supervisor.keys.store import KeyStore

ANYONE = Share("anyone")
"""Whoever asks where no key is needed."""


class Gate:
    """Turns a request's credentials into who is asking, with what share. `open_`: without any key, anyone may."""

    def __init__(self, keys: KeyStore, *, open_: bool) -> None:
        self._keys = keys
        self._may_be_open = open_

    @property
    def open(self) -> bool:
        """Whether no key is needed."""
        return self._may_be_open and not self._keys.locked_down

    @property
    def version(self) -> int:
        """Changes when the same credentials may lead to another answer."""
        return self._keys.version

    def admit(self, authorization: bytes | None, api_key: bytes | None) -> Share | None:
        """The share of the caller's key, ANYONE when no key is needed, or None: keep out.

        Args:
            authorization: the Authorization header: `Bearer KEY`, or the bare key as llama-server takes it too.
            api_key: the x-api-key header, which Anthropic's clients send.
        """
        if self.open:
            return ANYONE
        secret = authorization or api_key
        if secret is None:
            return None
        scheme, _, rest = secret.partition(b" ")
        principal = self._keys.find(rest.strip() if scheme.lower() == b"bearer" else secret)
        return principal.share if principal else None
