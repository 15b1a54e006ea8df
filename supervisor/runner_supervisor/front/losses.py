"""The engines that ended while they worked on one request, and whether it may be sent to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from runner_supervisor.front.replies import ENGINE_GONE, Refusal

POISON: Final = 2
"""A request at work in so many crashes is taken for their cause."""


@dataclass(frozen=True, slots=True)
class Losses:
    """What one request has been through. `crashes`: how engines ended that were not told to end."""

    count: int = 0
    crashes: tuple[str, ...] = ()

    def and_one(self, ended: str | None) -> Losses:
        """One more engine has ended. `ended`: see `Upstream`."""
        crashes = self.crashes if ended == "" else (*self.crashes, ended or "in an unknown way")
        return Losses(self.count + 1, crashes)

    @property
    def poison(self) -> bool:
        """Whether the request itself seems to end engines."""
        return len(self.crashes) >= POISON

    def refusal(self, max_retries: int) -> Refusal | None:
        """Why the request is not sent again; None: it may be."""
        if self.poison:
            how = ", then ".join(self.crashes)
            return Refusal(
                422, "poison_request", f"The model server ended twice while it worked on this request ({how})."
            )
        return ENGINE_GONE if self.count > max_retries else None


NONE: Final = Losses()
