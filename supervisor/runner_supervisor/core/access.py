"""Who a caller is, and what that entitles to. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase

from runner_supervisor.core.admission import Share
from runner_supervisor.core.quota import NO_LIMITS, Limits


class Scope(StrEnum):
    """What a key may be for. ADMIN includes the others."""

    INFERENCE = "inference"
    METRICS = "metrics"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Principal:
    """A caller: the key's `share` of the slots (its id among it), name, scopes, models and limits.

    `models`: shell patterns, of which one must match the model's name; none: any model.
    """

    share: Share
    name: str
    scopes: frozenset[Scope] = field(default=frozenset({Scope.INFERENCE}))
    models: tuple[str, ...] = ()
    limits: Limits = NO_LIMITS

    @property
    def id(self) -> str:
        """The key's id, which may be shown and logged."""
        return self.share.key

    def may(self, scope: Scope) -> bool:
        """Whether the key is for this."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def may_use(self, model: str) -> bool:
        """Whether the key is for the model of this name."""
        return not self.models or any(fnmatchcase(model, pattern) for pattern in self.models)
