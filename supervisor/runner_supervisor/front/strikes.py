"""Wrong keys, counted for each address: whoever goes on guessing waits ever longer for the answer.

A key cannot be guessed (256 random bits); this is so that trying is slow, seen in the log, and costs nothing.
Good keys are never held back, whatever comes from the same address.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

logger = logging.getLogger(__name__)

FREE: Final = 5
"""So many wrong keys a minute are answered at once."""

MINUTE_S: Final = 60.0
FIRST_S: Final = 0.1
LONGEST_S: Final = 5.0
FORGOTTEN_S: Final = 600.0
ADDRESSES: Final = 4096
HELD: Final = 256
DOUBLINGS: Final = 10


class Strikes:
    """Counts wrong keys. Bounded: ADDRESSES are remembered, HELD answers are kept back at once.

    `clock`: seconds on a clock that only goes forward.
    """

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._held = 0
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, address: str) -> float:
        """Count one wrong key; returns for how many seconds its answer is to be kept back. Unless that is 0,
        `answered` must follow.
        """
        now = self._clock()
        whose = network_of(address)
        count, last_s = self._seen.pop(whose, (0, now))
        quiet_s = now - last_s
        if quiet_s > FORGOTTEN_S or (count <= FREE and quiet_s > MINUTE_S):
            count = 0
        count += 1
        self._seen[whose] = (count, now)
        if len(self._seen) > ADDRESSES:
            self._seen.popitem(last=False)
        if count >= 10 and count == 10 ** (len(str(count)) - 1):
            logger.warning("%d wrong keys from %s", count, whose)
        if count <= FREE or self._held >= HELD:
            return 0.0
        self._held += 1
        return min(LONGEST_S, FIRST_S * float(1 << min(count - FREE - 1, DOUBLINGS)))

    def answered(self) -> None:
        """An answer that was kept back is out."""
        self._held -= 1


def network_of(address: str) -> str:
    """What is counted as one address: of IPv6 the first 64 bits, which one customer has for himself."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(ip_network((parsed, 64), strict=False)) if isinstance(parsed, IPv6Address) else address
