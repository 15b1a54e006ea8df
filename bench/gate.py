"""`python -m bench.gate`: what it costs a request to be known and counted, with 1,000 keys and 10,000 rows of use.

Each request comes with another key, so that nothing is remembered from the one before: the worst case. The median
and the 99th percentile of one call, in microseconds, with the clock's own cost in them (about 0.1).
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from runner_supervisor.core.access import Principal, Scope
from runner_supervisor.core.quota import Limits, Quota
from runner_supervisor.front.gate import Gate, Request
from runner_supervisor.front.routes import route_of
from runner_supervisor.keys.limits import DAY_S, Count, LocalLimits, Standing
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.keys.usage import UsageBook
from runner_supervisor.settings import Settings

KEYS = 1000
ROWS = 10_000
CALLS = 50_000
LIMITS = Limits(requests=Quota(10**9, 60.0), tokens=Quota(10**12, DAY_S), concurrent=1000)
PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Cost:
    """Microseconds of one call."""

    p50_us: float
    p99_us: float


def request(secret: str) -> Request:
    """A request with this key."""
    headers = {b"host": b"localhost:8080", b"authorization": f"Bearer {secret}".encode()}
    return Request(b"POST", route_of(PATH), PATH, headers, None)


def measure(folder: Path, *, keys: int = KEYS, rows: int = ROWS, calls: int = CALLS) -> dict[str, Cost]:
    """The costs, by what is done.

    Args:
        folder: an empty one, for the databases.
        keys: how many there are.
        rows: of what they have used: a standing for each key, the rest by key and day.
        calls: how often each thing is done.
    """
    store = KeyStore(folder / "keys.sqlite")
    issued = [store.create(f"key-{n}", scopes=(Scope.INFERENCE,), limits=LIMITS) for n in range(keys)]
    now = time.time()
    days = itertools.product(range(-(-(rows - keys) // keys)), (each.key.id for each in issued))
    counts = {(key, int(now // DAY_S) - day): Count(1, 1, 1) for day, key in itertools.islice(days, rows - keys)}
    book = UsageBook(folder / "usage.sqlite")
    book.save([Standing(each.key.id, 1.0, now, 0.0, 1, now + DAY_S) for each in issued], counts)
    limits = LocalLimits()
    limits.restore(book.load())
    gate = Gate(store, Settings())
    gate.model = "demo"
    coming = itertools.cycle([request(each.secret) for each in random.sample(issued, keys)])
    let_in: list[tuple[Principal, int]] = []
    gc.collect()
    gc.freeze()  # as a supervisor does when it is ready

    def gate_one() -> None:
        principal = gate.judge(next(coming)).principal
        limits.take(principal, lambda verdict: let_in.append((principal, verdict.lease)))

    def settle_one() -> None:
        principal, lease = let_in.pop()
        limits.release(principal, lease)
        limits.charge(principal, prompt_tokens=10, generated_tokens=10)

    costs = {
        "before: key, host, origin, scope, model, limits": _time(gate_one, calls),
        "after: released, tokens charged": _time(settle_one, calls),
    }
    store.close()
    return costs


def _time(work: Callable[[], None], calls: int) -> Cost:
    clock = time.perf_counter_ns
    took = []
    for _ in range(calls):
        began = clock()
        work()
        took.append(clock() - began)
    return Cost(p50_us=median(took) / 1000, p99_us=quantiles(took, n=100)[-1] / 1000)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rs-bench-") as folder:
        costs = measure(Path(folder))
    if options.json:
        print(json.dumps({what: asdict(cost) for what, cost in costs.items()}, indent=2))
        return
    for what, cost in costs.items():
        print(f"{what:<48} p50 {cost.p50_us:6.2f} µs   p99 {cost.p99_us:6.2f} µs")


if __name__ == "__main__":
    main()
