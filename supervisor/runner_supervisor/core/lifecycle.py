"""The engine's life as a pure function: `step(machine, event) -> (machine, effects)`.

Whoever executes the effects feeds back what then happened as events. Every event about a child carries that
child's generation number; events of an earlier generation are dropped. A process that has ended always wins
over what a probe believed.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum

from runner_supervisor.core.restart import Cause, Death, Exit, RestartPolicy, backoff_s, cause_of, recent
from runner_supervisor.core.states import ALIVE, COMING_UP, TRANSITIONS, State

HUNG_GRACE_S = 0.5
"""How long a process that hangs may take from TERM to its end, in seconds, if the operator allows as long."""


class Timer(StrEnum):
    """What a timer was set for."""

    GRACE = "grace"
    RETRY = "retry"


@dataclass(frozen=True, slots=True)
class Policy:
    """What an operator may set about an engine's life. Times are seconds.

    `load_timeout_s`, `stall_timeout_s`: how long a load, or a READY engine, may show no progress (`core.health`).
    `rungs`: how many steps down there are for an engine that ran out of memory.
    """

    load_timeout_s: float = 120.0
    stall_timeout_s: float = 60.0
    stop_grace_s: float = 10.0
    rungs: int = 0
    restart: RestartPolicy = field(default_factory=RestartPolicy)


# Events: what happened.


@dataclass(frozen=True, slots=True)
class Start:
    """Somebody wants the engine up."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Somebody wants the engine down."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The child's /health answered: `ready` for 200, else it is loading. `slots`: how many requests it takes."""

    generation: int
    ready: bool
    slots: int = 1


@dataclass(frozen=True, slots=True)
class Stalled:
    """The child lives, but gets nowhere. `detail`: what was seen, for people."""

    generation: int
    detail: str


@dataclass(frozen=True, slots=True)
class Exited:
    """The child's process ended. `jitter` was drawn from [0, 1) by the observer.

    `words`: the last lines of its log. `oom_killed`: whether the kernel has killed for memory while it ran.
    """

    generation: int
    exit: Exit
    jitter: float
    words: tuple[str, ...] = ()
    oom_killed: bool = False


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """The child's process could not be made at all. `jitter` was drawn from [0, 1) by the observer."""

    generation: int
    detail: str
    jitter: float


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer set by `SetTimer` went off."""

    generation: int
    timer: Timer


Event = Start | Stop | Answered | Stalled | Exited | SpawnFailed | TimerFired

# Effects: what to do.


@dataclass(frozen=True, slots=True)
class Spawn:
    """Make the child process of this generation and watch it."""

    generation: int


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send TERM to the child's process group."""

    generation: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Send KILL to the child's process group."""

    generation: int


@dataclass(frozen=True, slots=True)
class SetTimer:
    """Report `TimerFired` after `delay_s` seconds."""

    generation: int
    timer: Timer
    delay_s: float


Effect = Spawn | Terminate | Kill | SetTimer


@dataclass(frozen=True, slots=True)
class Machine:
    """All that is known about one engine. Times are seconds on the caller's monotonic clock.

    `ready_at`: when the present child became READY. `fruitless`: how many deaths there were since one was.
    `lowered`: how many steps down the ladder it is.
    """

    state: State = State.STOPPED
    since: float = 0.0
    generation: int = 0
    slots: int = 1
    wanted: bool = False
    ever_ready: bool = False
    attempt: int = 0
    restarts: int = 0
    deaths: tuple[Death, ...] = ()
    last_death: Death | None = None
    half_open: bool = False
    killed_for: Stalled | None = None
    ready_at: float | None = None
    fruitless: int = 0
    lowered: int = 0
    retry_at: float | None = None


Step = tuple[Machine, tuple[Effect, ...]]


def step(machine: Machine, event: Event, *, now: float, policy: Policy) -> Step:
    """Decide what one event changes and what must be done about it.

    Args:
        machine: what is known so far.
        event: what happened.
        now: seconds on a monotonic clock.
        policy: the operator's numbers.

    Returns:
        The new machine and the effects to execute, in order.
    """
    match event:
        case Start():
            return _start(machine, now=now)
        case Stop():
            return _stop(machine, now=now, policy=policy)
    if event.generation != machine.generation:
        return machine, ()
    match event:
        case Answered():
            return _answered(machine, event, now=now)
        case Stalled():
            return _stalled(machine, event, now=now, policy=policy)
        case Exited():
            return _exited(machine, event, now=now, policy=policy)
        case SpawnFailed():
            return _spawn_failed(machine, event, now=now, policy=policy)
        case TimerFired():
            return _timer_fired(machine, event, now=now)


def _move(machine: Machine, state: State, *, now: float) -> Machine:
    """The one gate through which the state changes."""
    if state not in TRANSITIONS[machine.state]:
        raise AssertionError(f"no transition {machine.state} -> {state}")
    return replace(machine, state=state, since=now)


def _launch(machine: Machine, *, now: float) -> Step:
    generation = machine.generation + 1
    moved = _move(machine, State.STARTING, now=now)
    launched = replace(moved, generation=generation, killed_for=None, ready_at=None, retry_at=None)
    return launched, (Spawn(generation),)


def _start(machine: Machine, *, now: float) -> Step:
    wanted = replace(machine, wanted=True)
    if machine.state in ALIVE:
        return wanted, ()
    if machine.state is State.FAILED:
        wanted = replace(wanted, attempt=0, deaths=(), fruitless=0, half_open=False, lowered=0)
    return _launch(wanted, now=now)


def _stop(machine: Machine, *, now: float, policy: Policy) -> Step:
    unwanted = replace(machine, wanted=False)
    if machine.state in {State.STOPPED, State.STOPPING}:
        return unwanted, ()
    if machine.state not in ALIVE:
        return replace(_move(unwanted, State.STOPPED, now=now), retry_at=None), ()
    return _end(unwanted, policy.stop_grace_s, now=now)


def _end(machine: Machine, grace_s: float, *, now: float) -> Step:
    generation = machine.generation
    effects = Terminate(generation), SetTimer(generation, Timer.GRACE, grace_s)
    return _move(machine, State.STOPPING, now=now), effects


def _stalled(machine: Machine, event: Stalled, *, now: float, policy: Policy) -> Step:
    if machine.state not in ALIVE - {State.STOPPING}:
        return machine, ()
    return _end(replace(machine, killed_for=event), min(policy.stop_grace_s, HUNG_GRACE_S), now=now)


def _answered(machine: Machine, event: Answered, *, now: float) -> Step:
    if event.ready and machine.state in COMING_UP:
        ready = _move(machine, State.READY, now=now)
        return replace(ready, ever_ready=True, ready_at=now, fruitless=0, half_open=False, slots=event.slots), ()
    if not event.ready and machine.state is State.STARTING:
        return _move(machine, State.LOADING, now=now), ()
    return machine, ()


def _gone(machine: Machine, *, now: float) -> Step:
    if machine.wanted:
        return _launch(machine, now=now)
    return _move(machine, State.STOPPED, now=now), ()


def _exited(machine: Machine, event: Exited, *, now: float, policy: Policy) -> Step:
    hung = machine.killed_for
    if machine.state not in ALIVE:
        return machine, ()
    if machine.state is State.STOPPING and not (hung and machine.wanted):
        return _gone(machine, now=now)
    was_ready = machine.ready_at is not None
    if hung:
        cause = Cause.STALL if was_ready else Cause.LOAD_TIMEOUT
    else:
        came_up = was_ready or machine.ever_ready
        cause = cause_of(event.exit, words=event.words, oom_killed=event.oom_killed, came_up=came_up)
    detail = hung.detail if hung else str(event.exit)
    death = Death(cause=cause, detail=detail, at=now, was_ready=was_ready, words=event.words)
    if cause is Cause.OOM and machine.lowered < policy.rungs:
        lower = replace(machine, lowered=machine.lowered + 1)
        return _wait(lower, death, delay_s=backoff_s(attempt=0, jitter=event.jitter, policy=policy.restart), now=now)
    return _died(machine, death, jitter=event.jitter, now=now, policy=policy)


def _died(machine: Machine, death: Death, *, jitter: float, now: float, policy: Policy) -> Step:
    """A death that counts: wait and try again, or give up, for a while or, if it never worked, for good."""
    limits = policy.restart
    if death.cause in {Cause.CONFIG, Cause.SPAWN} and not machine.ever_ready:
        return replace(_move(machine, State.FAILED, now=now), last_death=death), ()
    deaths = recent((*machine.deaths, death), now=now, policy=limits)
    fruitless = machine.fruitless + (not death.was_ready)
    given_up = max(len(deaths), fruitless) >= limits.breaker_deaths  # loads may take longer than the window
    if machine.half_open or death.cause is Cause.CONFIG or given_up:
        failed = _move(machine, State.FAILED, now=now)
        known = replace(failed, deaths=deaths, last_death=death, retry_at=now + limits.cooldown_s)
        return known, (SetTimer(machine.generation, Timer.RETRY, limits.cooldown_s),)
    was_stable = machine.ready_at is not None and now - machine.ready_at >= limits.stable_s
    attempt = 0 if was_stable else machine.attempt
    counted = replace(machine, attempt=attempt + 1, deaths=deaths, fruitless=fruitless)
    return _wait(counted, death, delay_s=backoff_s(attempt=attempt, jitter=jitter, policy=limits), now=now)


def _wait(machine: Machine, death: Death, *, delay_s: float, now: float) -> Step:
    waiting = replace(_move(machine, State.BACKOFF, now=now), last_death=death, retry_at=now + delay_s)
    return waiting, (SetTimer(machine.generation, Timer.RETRY, delay_s),)


def _spawn_failed(machine: Machine, event: SpawnFailed, *, now: float, policy: Policy) -> Step:
    if machine.state is State.STOPPING:
        return _gone(machine, now=now)
    if machine.state is not State.STARTING:
        return machine, ()
    death = Death(cause=Cause.SPAWN, detail=event.detail, at=now, was_ready=False)
    return _died(machine, death, jitter=event.jitter, now=now, policy=policy)


def _timer_fired(machine: Machine, event: TimerFired, *, now: float) -> Step:
    match event.timer, machine.state:
        case Timer.GRACE, State.STOPPING:
            return machine, (Kill(machine.generation),)
        case Timer.RETRY, State.BACKOFF | State.FAILED:
            launched, effects = _launch(machine, now=now)
            half_open = machine.state is State.FAILED
            return replace(launched, restarts=machine.restarts + 1, half_open=half_open), effects
    return machine, ()
