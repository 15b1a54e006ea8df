"""The `bench` command: a load test of the running service, or of another endpoint."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import SystemRandom
from typing import Annotated

import httpx
import typer
from rich.text import Text

from runner_supervisor import show
from runner_supervisor.errors import RunnerError
from runner_supervisor.loadtest.endpoint import connected
from runner_supervisor.loadtest.figures import Step
from runner_supervisor.loadtest.picture import png, require_matplotlib
from runner_supervisor.loadtest.run import Course, Plan, Start, measure
from runner_supervisor.options import ConfigOption, JsonOption, StateDirOption, layout_of
from runner_supervisor.private import write_private
from runner_supervisor.remote import Remote

MOST_AT_ONCE = 512
MOST_STEPS = 16
STEP_S = 10.0
INTERRUPTED = 130
READABLE = 0o644
HEADS = ["streams", "answers", "errors", "requests/s", "tokens/s", "per stream", "ttft p50", "ttft p95", "per token"]


@dataclass(slots=True)
class Report:
    """What was measured. `warm_up_*`: tokens of the request that came before all steps."""

    url: str
    prompt_tokens: int
    max_tokens: int
    model: str = ""
    warm_up_prompt_tokens: int = 0
    warm_up_generated_tokens: int = 0
    interrupted: bool = False
    steps: list[Step] = field(default_factory=list)

    def begin(self, start: Start) -> None:
        """The endpoint has answered."""
        self.model = start.model
        self.warm_up_prompt_tokens = start.warm_up.prompt_tokens
        self.warm_up_generated_tokens = start.warm_up.generated_tokens


def bench(
    *,
    url: Annotated[
        str | None,
        typer.Option(help="Address of an OpenAI-compatible endpoint.", show_default="the running supervisor's"),
    ] = None,
    key: Annotated[
        str | None, typer.Option(envvar="API_KEY", help="API key, where one is needed; better given in API_KEY.")
    ] = None,
    cacert: Annotated[
        Path | None, typer.Option(help="PEM file to know the certificate by.", show_default="the system's")
    ] = None,
    concurrency: Annotated[str, typer.Option(metavar="N,N", help="Streams at once, a step for each.")] = "1,2,4,8",
    requests: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Requests in each step, instead of --seconds.", show_default=False),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            min=0.1, max=3600, help="Seconds within which requests of a step begin.", show_default=f"{STEP_S:g}"
        ),
    ] = None,
    prompt_tokens: Annotated[int, typer.Option(min=1, max=1_000_000, help="Tokens of a prompt, about.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=2, max=1_000_000, help="Tokens of an answer.")] = 64,
    picture: Annotated[
        Path | None, typer.Option("--png", help="Draw the figures into this file.", show_default=False)
    ] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Load the running service through its door, with more and more chats at once, and show how it does.

    Prompts are words at random, each another from its first word on, so that no prompt cache helps; answers go on to
    their full length (ignore_eos). One request comes first and does not count. Times are a client's on this machine,
    which takes its share of the processors. Answers under way at a step's end are waited for, 10 minutes at most.
    Ctrl-C shows what was measured so far. Exit code 1 when a request failed.
    """
    if requests and seconds:
        raise typer.BadParameter("--requests and --seconds both end a step; give one of them")
    if key and not (key.isascii() and key.isprintable()):
        raise typer.BadParameter("the API key has characters that no key has; was it copied whole, and nothing else?")
    plan = Plan(steps_of(concurrency), requests, seconds or STEP_S, prompt_tokens, max_tokens)
    if picture:
        require_matplotlib()
        if not picture.absolute().parent.is_dir():
            raise RunnerError(
                f"there is no folder {picture.absolute().parent} to put {picture.name} into; make it first"
            )
    address = base_of(url) if url else str(Remote(layout_of(config, state_dir)).status()["address"])
    report = Report(address, prompt_tokens, max_tokens)
    try:
        asyncio.run(_measure(report, plan, key=key, cacert=cacert))
    except KeyboardInterrupt:
        report.interrupted = True
    if as_json:
        show.out.print_json(json.dumps(asdict(report)))
    elif report.steps:
        table(report)
    if picture and report.steps:
        _draw(report, picture)
    if report.interrupted:
        show.err.print("interrupted; of the step under way, what had ended counts")
        raise typer.Exit(INTERRUPTED)
    raise typer.Exit(1 if any(step.errors for step in report.steps) else 0)


def _draw(report: Report, path: Path) -> None:
    try:
        write_private(path, png(report.steps, title=f"{report.model} at {report.url}"), mode=READABLE)
    except OSError as error:
        raise RunnerError(f"cannot write {path}: {error.strerror}; name another file with --png") from None
    show.err.print(f"drawn: {path}", highlight=False, markup=False)


async def _measure(report: Report, plan: Plan, *, key: str | None, cacert: Path | None) -> None:
    with show.err.status(Text(f"warming up {report.url}"), refresh_per_second=4) as status:

        def progress(course: Course) -> None:
            of = "" if plan.requests is None else f" of {plan.requests}"
            status.update(f"{course.concurrency} at once: {len(course.outcomes)}{of} requests have ended")

        def took(step: Step) -> None:
            report.steps.append(step)
            show.err.print(
                f"{step.concurrency} at once: {step.requests} requests in {step.elapsed_s:.1f} s", highlight=False
            )

        async with connected(report.url, key=key, cacert=cacert) as endpoint:
            await measure(
                endpoint, plan, random=SystemRandom(), on_start=report.begin, on_progress=progress, on_step=took
            )


def steps_of(text: str) -> tuple[int, ...]:
    """How many streams at once, a number for each step.

    Raises:
        BadParameter: these are no such numbers.
    """
    numbers = text.split(",")
    if len(numbers) > MOST_STEPS or not all(each.strip().isdecimal() for each in numbers):
        raise typer.BadParameter(f"--concurrency takes up to {MOST_STEPS} numbers, as 1,2,4,8; {text!r} is not that")
    found = tuple(map(int, numbers))
    if not all(1 <= each <= MOST_AT_ONCE for each in found):
        raise typer.BadParameter(f"--concurrency takes numbers from 1 to {MOST_AT_ONCE}; {text!r} has others")
    return found


def base_of(url: str) -> str:
    """An endpoint's address without the /v1 that clients of OpenAI's are given.

    Raises:
        BadParameter: it is none.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in {"http", "https"} or not parsed.host:
        raise typer.BadParameter(f"--url takes an address as http://127.0.0.1:8080; {url!r} is none")
    return url.rstrip("/").removesuffix("/v1")


def table(report: Report) -> None:
    """A row for each step, and what failed."""
    show.table(HEADS, [_row(step) for step in report.steps])
    for step in report.steps:
        for cause, count in step.errors.items():
            show.out.print(
                f"{step.concurrency} at once: {count} failed: {cause}", style="red", highlight=False, markup=False
            )
    answers = sum(step.answers for step in report.steps)
    if answers:
        prompts, cached, generated = (
            sum(getattr(step, name) for step in report.steps) / answers
            for name in ("prompt_tokens", "cached_tokens", "generated_tokens")
        )
        told = f"prompts of {prompts:.0f} tokens ({cached:.0f} of them cached), answers of {generated:.0f}"
        show.out.print(f"{report.model} at {report.url}; {told}", highlight=False, markup=False)


def _row(step: Step) -> list[str]:
    return [
        str(step.concurrency),
        str(step.answers),
        str(sum(step.errors.values())),
        f"{step.requests_per_s:.2f}",
        f"{step.tokens_per_s:.1f}",
        "-" if step.stream_tokens_per_s is None else f"{step.stream_tokens_per_s:.1f}",
        *map(_ms, (step.ttft_p50_ms, step.ttft_p95_ms, step.per_token_p50_ms)),
    ]


def _ms(milliseconds: float | None) -> str:
    return "-" if milliseconds is None else f"{milliseconds:.{2 if milliseconds < 10 else 0}f} ms"
