"""`python -m bench`: the front beside nginx, a blind splice, a naive proxy and the engine itself.

Rounds are interleaved and medians shown. Ratios within one run are what counts: the machine is whatever it is,
and its noise is stated.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from itertools import groupby
from pathlib import Path

from bench.report import Rounds, draw, print_table, write_json
from bench.targets import ENGINE_CORE, PROXY_CORE, fake_engine, real_engine
from bench.workloads import WORKLOADS


def measure(rounds: int, names: list[str]) -> Rounds:
    """Every workload on every target of its rig, round by round. What the naive proxy does not stand is left out."""
    figures: Rounds = {name: {} for name in names}
    by_rig = sorted(names, key=lambda name: WORKLOADS[name].real)
    for real, group in groupby(by_rig, key=lambda name: WORKLOADS[name].real):
        members = list(group)
        rig = real_engine if real else fake_engine
        with tempfile.TemporaryDirectory(prefix="rs-bench-") as folder, rig(Path(folder)) as targets:
            for number in range(rounds):
                for name in members:
                    for target in targets:
                        print(f"round {number + 1}/{rounds}: {name} {target.name}", file=sys.stderr)
                        try:
                            seen = WORKLOADS[name].measure(target)
                        except OSError as error:
                            if target.name != "naive":
                                raise
                            print(f"{target.name} failed at {name}, and is left out: {error}", file=sys.stderr)
                        else:
                            figures[name].setdefault(target.name, []).append(seen)
    return figures


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--picture", type=Path, help="draw them here too, as a PNG")
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS), help=", ".join(WORKLOADS))
    options = parser.parse_args()
    unknown = set(options.workloads) - set(WORKLOADS)
    if unknown:
        sys.exit(f"unknown workloads: {', '.join(sorted(unknown))}; there are {', '.join(WORKLOADS)}")
    if PROXY_CORE == ENGINE_CORE:
        sys.exit("the bench needs two cores: one for the proxy, one for load and engine")
    figures = measure(options.rounds, options.workloads)
    print_table(figures)
    if options.json:
        write_json(figures, options.json)
    if options.picture:
        draw(figures, options.picture)


if __name__ == "__main__":
    main()
