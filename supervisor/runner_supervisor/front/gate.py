"""Who is asking, and may they: a key, or whoever can reach an open address, and what each is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from runner_supervisor.core.access import Principal, Scope
from runner_supervisor.core.admission import Share
from runner_supervisor.front.hosts import Hosts
from runner_supervisor.front.origins import Origins
from runner_supervisor.front.replies import (
    FOREIGN_HOST,
    FOREIGN_ORIGIN,
    INVALID_KEY,
    NO_SUCH_PATH,
    WRONG_MODEL,
    WRONG_SCOPE,
    Refusal,
)
from runner_supervisor.front.routes import Route
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.settings import Settings

ANYONE: Final = Principal(Share("anyone"), "anyone", frozenset({Scope.INFERENCE, Scope.METRICS}))
"""Whoever asks where no key is needed."""

OPERATOR: Final = Principal(Share("operator"), "operator", frozenset({Scope.ADMIN}))
"""Whoever asks over the control socket, whose folder only its owner can enter."""

NOBODY: Final = Principal(Share(""), "", frozenset())
"""Whoever shows no key that is known."""

BEARER: Final = b"bearer "

WITHOUT_KEY: Final = frozenset({ANYONE.id, OPERATOR.id, NOBODY.id})


@dataclass(frozen=True, slots=True)
class Request:
    """What the gate looks at: a request's method, its route and decoded path, its headers (names in lower case) and,
    where the target names a host itself (`http://host/path`), that.
    """

    method: bytes
    route: Route
    path: str
    headers: Mapping[bytes, bytes]
    authority: bytes | None


class Judgement(NamedTuple):
    """Who asks, why not if they may not, and whether a key was shown that there is not: a guess, perhaps."""

    principal: Principal
    refusal: Refusal | None = None
    guess: bool = False


class Gate:
    """Judges requests by their heads. `model`: the name of the model that is served."""

    def __init__(self, keys: KeyStore, settings: Settings) -> None:
        self._keys = keys
        self._model = ""
        self._changes = 0
        self.apply(settings)

    def apply(self, settings: Settings) -> None:
        """Take over what the settings say of who may come in."""
        self._may_be_open = settings.on_loopback or settings.insecure_no_auth
        self._open_paths = frozenset(settings.open_paths)
        self._hosts = Hosts(settings.allowed_hosts, loopback=settings.on_loopback)
        self.origins = Origins(settings.cors_origins)
        self._changes += 1

    @property
    def model(self) -> str:
        """The name of the model that is served."""
        return self._model

    @model.setter
    def model(self, name: str) -> None:
        if name != self._model:
            self._model = name
            self._changes += 1

    @property
    def open(self) -> bool:
        """Whether no key is needed."""
        return self._may_be_open and not self._keys.locked_down

    @property
    def version(self) -> int:
        """Grows when the same request may be judged in another way."""
        return self._keys.version + self._changes

    def judge(self, request: Request) -> Judgement:
        """Whether a request may go ahead, from a client on the network."""
        scope = request.route.needs(request.method)
        if scope is None:
            return Judgement(ANYONE)
        headers = request.headers
        if self._hosts.refuses(headers.get(b"host"), request.authority):
            return Judgement(NOBODY, FOREIGN_HOST)
        if self.open:
            principal = ANYONE
            origin = headers.get(b"origin")
            if origin is not None and not is_local(origin) and not self.origins.allows(origin):
                return Judgement(ANYONE, FOREIGN_ORIGIN)
        else:
            secret = headers.get(b"authorization") or headers.get(b"x-api-key")
            holder = self._find(secret) if secret else None
            if holder is None and secret and self._keys.refresh():  # it may have been made just now
                holder = self._find(secret)
            if holder is None:
                return Judgement(NOBODY, INVALID_KEY, guess=bool(secret))
            principal = holder
        return Judgement(principal, self._why_not(request, principal, scope))

    def _why_not(self, request: Request, principal: Principal, scope: Scope) -> Refusal | None:
        if scope is Scope.ADMIN and self._open_paths & {request.path, request.route.label}:
            scope = Scope.INFERENCE
        if not principal.may(scope):
            if request.route.listed:
                return replace(WRONG_SCOPE, message=WRONG_SCOPE.message.format(scope=scope))
            return NO_SUCH_PATH
        if scope is Scope.INFERENCE and not principal.may_use(self._model):
            return WRONG_MODEL
        return None

    def _find(self, secret: bytes) -> Principal | None:
        if secret[: len(BEARER)].lower() == BEARER:
            secret = secret[len(BEARER) :].strip()
        return self._keys.find(secret)


def is_local(origin: bytes) -> bool:
    """Whether an Origin header names this machine itself, and so a page that runs here."""
    try:
        host = urlsplit(origin.decode("latin-1")).hostname
        return host == "localhost" or (host is not None and ip_address(host).is_loopback)
    except ValueError:
        return False
