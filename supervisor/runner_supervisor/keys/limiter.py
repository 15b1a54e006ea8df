"""Which limits hold: this supervisor's own, or those it shares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runner_supervisor.errors import ConfigError
from runner_supervisor.keys.limits import LocalLimits

if TYPE_CHECKING:
    from runner_supervisor.keys.shared import SharedLimits


def shared_limits(url: str, local: LocalLimits) -> SharedLimits:
    """Limits shared through the Redis server of `url`. Their `run` must be run.

    Raises:
        ConfigError: that is no URL of a Redis server, or its client is not installed.
    """
    try:
        from runner_supervisor.keys.shared import SharedLimits  # noqa: PLC0415 (needs an extra)
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise ConfigError(
            "limits_url needs the Redis client: pip install 'runner-supervisor[redis]', or unset limits_url"
        ) from None
    return SharedLimits(url, local)
