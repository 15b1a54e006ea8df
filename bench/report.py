"""What a run says: medians and ratios as a table, the figures as JSON, a picture."""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.targets import how_the_front_runs, processor
from bench.workloads import WORKLOADS, Figures

Rounds = dict[str, dict[str, list[Figures]]]
"""workload → target → the figures of each round"""

Medians = dict[str, dict[str, dict[str, float]]]
"""workload → figure → target → the median of its rounds"""

NAMES = ("direct", "nginx", "front", "splice", "naive")


def medians(figures: Rounds) -> Medians:
    """The median of the rounds."""
    table: Medians = {}
    for name, by_target in figures.items():
        for target, rounds in by_target.items():
            for figure in rounds[0]:
                value = statistics.median(each[figure] for each in rounds)
                table.setdefault(name, {}).setdefault(figure, {})[target] = value
    return table


def noise(figures: Rounds) -> dict[str, float]:
    """How far the rounds lie apart: for each target, the median over its figures of (max - min) / median."""
    spans: dict[str, list[float]] = {}
    for by_target in figures.values():
        for target, rounds in by_target.items():
            for figure in rounds[0]:
                values = [each[figure] for each in rounds]
                if statistics.median(values):
                    span = (max(values) - min(values)) / statistics.median(values)
                    spans.setdefault(target, []).append(span)
    return {target: statistics.median(each) for target, each in spans.items()}


def ratio(name: str, figure: str, by_target: dict[str, float]) -> tuple[float, str] | None:
    """The front's figure against nginx's, or against the engine's own where that is what counts.

    Returns:
        The ratio and what it is of, or None when the other was not measured.
    """
    if name.startswith("w5"):
        return by_target["front"] / by_target["direct"], "direct"
    if "nginx" not in by_target:
        return None
    if figure == "p50_us":
        direct = by_target["direct"]
        if by_target["nginx"] <= direct:
            return None
        return (by_target["front"] - direct) / (by_target["nginx"] - direct), "nginx, added"
    return by_target["front"] / by_target["nginx"], "nginx"


def print_table(figures: Rounds) -> None:
    """Print medians and ratios, and how noisy the machine was."""
    table = Table("workload", "figure", *NAMES, "front against")
    for name, by_figure in medians(figures).items():
        for figure, by_target in by_figure.items():
            shown = [f"{by_target[each]:,.1f}" if each in by_target else "-" for each in NAMES]
            found = ratio(name, figure, by_target)
            table.add_row(name, figure, *shown, f"{found[0]:.2f} of {found[1]}" if found else "-")
    Console(width=150).print(table)
    rounds = len(next(iter(next(iter(figures.values())).values())))
    apart = ", ".join(f"{target} {span:.0%}" for target, span in noise(figures).items())
    print(f"the front is {how_the_front_runs()}; {processor()}")
    print(f"medians of {rounds}; rounds typically lie apart by: {apart}")


def write_json(figures: Rounds, path: Path) -> None:
    """Write every round's figures and their medians."""
    report = {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "processor": processor(),
        "front": how_the_front_runs(),
        "rounds": figures,
        "medians": medians(figures),
        "noise": noise(figures),
    }
    path.write_text(json.dumps(report, indent=2) + "\n")


def draw(figures: Rounds, path: Path) -> None:
    """Draw each workload's first figure, one bar a target."""
    import matplotlib as mpl  # noqa: PLC0415 - only a picture needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    table = medians(figures)
    columns = 3
    rows = -(-len(table) // columns)
    drawing, axes = plt.subplots(rows, columns, figsize=(12, 2.6 * rows), layout="constrained", squeeze=False)
    colours = dict(zip(NAMES, ("#9aa5b1", "#3f8f5b", "#d9622b", "#7a6fb0", "#b0413e"), strict=True))
    for axis in axes.flat[len(table) :]:
        axis.remove()
    for axis, (name, by_figure) in zip(axes.flat, table.items(), strict=False):
        figure, by_target = next(iter(by_figure.items()))
        shown = [each for each in reversed(NAMES) if by_target.get(each)]
        bars = axis.barh(shown, [by_target[each] for each in shown], color=[colours[each] for each in shown])
        axis.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        better = "more" if WORKLOADS[name].higher else "less"
        axis.set_title(f"{WORKLOADS[name].title}\n{figure} ({better} is better)", fontsize=9)
        axis.margins(x=0.22)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    drawing.savefig(path, dpi=110)
    plt.close(drawing)
