"""Draws a load test: its figures over the number of streams at once. Needs matplotlib (the extra `bench`)."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Sequence

from runner_supervisor.errors import RunnerError
from runner_supervisor.loadtest.figures import Step

COLOURS = ("#3f6fb5", "#d9622b")
CHARTS: tuple[tuple[str, dict[str, str]], ...] = (
    ("tokens/s in all", {"": "tokens_per_s"}),
    ("tokens/s of one stream", {"": "stream_tokens_per_s"}),
    ("time to first token, ms", {"median": "ttft_p50_ms", "95 %": "ttft_p95_ms"}),
    ("time per output token, ms", {"median": "per_token_p50_ms", "95 %": "per_token_p95_ms"}),
)
"""Titles, and of each line its name and which of `Step`'s fields it shows."""


def require_matplotlib() -> None:
    """Make sure that a picture can be drawn.

    Raises:
        RunnerError: it is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise RunnerError("--png needs matplotlib; install it with: pip install 'runner-supervisor[bench]'")


def png(steps: Sequence[Step], *, title: str) -> bytes:
    """The picture as a file's content."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only a picture needs it

    drawing = Figure(figsize=(9, 6.2), layout="constrained")
    drawing.suptitle(title, fontsize=11, parse_math=False)
    numbers = [step.concurrency for step in steps]
    for axis, (name, lines) in zip(drawing.subplots(2, 2).flat, CHARTS, strict=True):
        for colour, (label, field) in zip(COLOURS, lines.items(), strict=False):
            figures = [getattr(step, field) for step in steps]
            shown = [float("nan") if each is None else each for each in figures]
            axis.plot(range(len(steps)), shown, "o-", color=colour, label=label)
        axis.set_title(name, fontsize=10)
        axis.set_xticks(range(len(steps)), numbers)
        axis.set_xlabel("streams at once", fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axis.legend(frameon=False, fontsize=9)
    content = io.BytesIO()
    drawing.savefig(content, format="png", dpi=110)
    return content.getvalue()
