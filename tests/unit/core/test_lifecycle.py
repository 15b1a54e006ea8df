"""The engine's life: every state against every event, and what must hold whatever happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_supervisor.core.lifecycle import (
    HUNG_GRACE_S,
    Answered,
    Effect,
    Event,
    Exited,
    Kill,
    Machine,
    Policy,
    SetTimer,
    Spawn,
    SpawnFailed,
    Stalled,
    Start,
    Stop,
    Terminate,
    Timer,
    TimerFired,
    step,
)
from runner_supervisor.core.restart import Cause, Death, Exit, RestartPolicy
from runner_supervisor.core.states import ALIVE, TRANSITIONS, State

GENERATION = 3
NOW = 1000.0
POLICY = Policy(stop_grace_s=5, rungs=2, restart=RestartPolicy(breaker_deaths=3, breaker_window_s=100))
KILLED = Exited(GENERATION, Exit(signal=9), jitter=0.5)
REFUSED = Exited(GENERATION, Exit(code=1), jitter=0.5)

EVENTS: dict[str, Event] = {
    "start": Start(),
    "stop": Stop(),
    "loading": Answered(GENERATION, ready=False),
    "ready": Answered(GENERATION, ready=True),
    "killed": KILLED,
    "exit 1": REFUSED,
    "spawn failed": SpawnFailed(GENERATION, "no such file", jitter=0.5),
    "stalled": Stalled(GENERATION, "no sign of progress"),
    "out of memory": Exited(GENERATION, Exit(signal=9), jitter=0.5, oom_killed=True),
    "grace timer": TimerFired(GENERATION, Timer.GRACE),
    "retry timer": TimerFired(GENERATION, Timer.RETRY),
}

LAUNCH = (Spawn(GENERATION + 1),)
SHUT = (Terminate(GENERATION), SetTimer(GENERATION, Timer.GRACE, 5))
RETRY = (SetTimer(GENERATION, Timer.RETRY, 0.25),)
KILL = (Kill(GENERATION),)
HUNG = (Terminate(GENERATION), SetTimer(GENERATION, Timer.GRACE, HUNG_GRACE_S))

EXPECTED: dict[tuple[State, str], tuple[State, tuple[Effect, ...]]] = {
    (State.STOPPED, "start"): (State.STARTING, LAUNCH),
    (State.STARTING, "stop"): (State.STOPPING, SHUT),
    (State.STARTING, "loading"): (State.LOADING, ()),
    (State.STARTING, "ready"): (State.READY, ()),
    (State.STARTING, "killed"): (State.BACKOFF, RETRY),
    (State.STARTING, "exit 1"): (State.FAILED, ()),
    (State.STARTING, "spawn failed"): (State.FAILED, ()),
    (State.STARTING, "stalled"): (State.STOPPING, HUNG),
    (State.STARTING, "out of memory"): (State.BACKOFF, RETRY),
    (State.LOADING, "stop"): (State.STOPPING, SHUT),
    (State.LOADING, "ready"): (State.READY, ()),
    (State.LOADING, "killed"): (State.BACKOFF, RETRY),
    (State.LOADING, "exit 1"): (State.FAILED, ()),
    (State.LOADING, "stalled"): (State.STOPPING, HUNG),
    (State.LOADING, "out of memory"): (State.BACKOFF, RETRY),
    (State.READY, "stop"): (State.STOPPING, SHUT),
    (State.READY, "killed"): (State.BACKOFF, RETRY),
    (State.READY, "exit 1"): (State.BACKOFF, RETRY),
    (State.READY, "stalled"): (State.STOPPING, HUNG),
    (State.READY, "out of memory"): (State.BACKOFF, RETRY),
    (State.STOPPING, "killed"): (State.STOPPED, ()),
    (State.STOPPING, "exit 1"): (State.STOPPED, ()),
    (State.STOPPING, "out of memory"): (State.STOPPED, ()),
    (State.STOPPING, "spawn failed"): (State.STOPPED, ()),
    (State.STOPPING, "grace timer"): (State.STOPPING, KILL),
    (State.BACKOFF, "start"): (State.STARTING, LAUNCH),
    (State.BACKOFF, "stop"): (State.STOPPED, ()),
    (State.BACKOFF, "retry timer"): (State.STARTING, LAUNCH),
    (State.FAILED, "start"): (State.STARTING, LAUNCH),
    (State.FAILED, "stop"): (State.STOPPED, ()),
    (State.FAILED, "retry timer"): (State.STARTING, LAUNCH),
}
"""What each pair leads to; every pair that is not here changes no state and does nothing."""


def machine_in(state: State) -> Machine:
    wanted = state not in {State.STOPPED, State.STOPPING}
    ready_at = NOW - 1 if state is State.READY else None
    return Machine(state=state, since=NOW - 1, generation=GENERATION, wanted=wanted, ready_at=ready_at)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("name", EVENTS)
def test_every_state_and_event(state: State, name: str) -> None:
    machine, effects = step(machine_in(state), EVENTS[name], now=NOW, policy=POLICY)
    assert (machine.state, effects) == EXPECTED.get((state, name), (state, ()))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    "event", [Answered(2, ready=True), replace(KILLED, generation=2), TimerFired(2, Timer.RETRY)]
)
def test_events_of_an_earlier_generation_change_nothing(state: State, event: Event) -> None:
    machine = machine_in(state)
    assert step(machine, event, now=NOW, policy=POLICY) == (machine, ())


def test_a_start_during_a_stop_is_not_lost() -> None:
    machine, effects = step(machine_in(State.STOPPING), Start(), now=NOW, policy=POLICY)
    assert (machine.state, effects) == (State.STOPPING, ())
    machine, effects = step(machine, KILLED, now=NOW, policy=POLICY)
    assert (machine.state, effects) == (State.STARTING, LAUNCH)


@pytest.mark.parametrize(("state", "cause"), [(State.LOADING, Cause.LOAD_TIMEOUT), (State.READY, Cause.STALL)])
def test_a_child_that_hangs_is_ended_and_started_again(state: State, cause: Cause) -> None:
    machine, _ = step(machine_in(state), EVENTS["stalled"], now=NOW, policy=POLICY)
    machine, _ = step(machine, Answered(GENERATION, ready=True), now=NOW, policy=POLICY)
    assert machine.state is State.STOPPING
    machine, effects = step(machine, KILLED, now=NOW, policy=POLICY)
    assert (machine.state, effects) == (State.BACKOFF, RETRY)
    assert machine.last_death == Death(cause, "no sign of progress", at=NOW, was_ready=state is State.READY)


def test_a_stop_while_a_child_that_hangs_is_ended_is_kept() -> None:
    machine, _ = step(machine_in(State.READY), EVENTS["stalled"], now=NOW, policy=POLICY)
    machine, _ = step(machine, Stop(), now=NOW, policy=POLICY)
    machine, effects = step(machine, KILLED, now=NOW, policy=POLICY)
    assert (machine.state, effects) == (State.STOPPED, ())


def test_memory_that_ran_out_leads_down_the_ladder_and_no_step_counts_as_a_crash() -> None:
    machine, now = machine_in(State.READY), NOW
    for lowered in (1, 2):
        generation = machine.generation
        machine, _ = step(machine, Exited(generation, Exit(signal=9), 0.5, oom_killed=True), now=now, policy=POLICY)
        assert (machine.state, machine.lowered, machine.deaths) == (State.BACKOFF, lowered, ())
        machine, _ = step(machine, TimerFired(generation, Timer.RETRY), now=now, policy=POLICY)
    machine, _ = step(
        machine, Exited(machine.generation, Exit(signal=9), 0.5, oom_killed=True), now=now, policy=POLICY
    )
    assert machine.lowered == 2
    assert [death.cause for death in machine.deaths] == [Cause.OOM]


def test_a_start_from_failed_begins_at_the_top_of_the_ladder() -> None:
    machine, _ = step(replace(machine_in(State.FAILED), lowered=2), Start(), now=NOW, policy=POLICY)
    assert machine.lowered == 0


def test_what_cannot_work_any_more_does_not_loop_but_is_tried_after_the_cool_down() -> None:
    words = ("0.00.003.000 E gguf_init_from_file: failed to open GGUF file 'model.gguf' (No such file)",)
    machine = replace(machine_in(State.LOADING), ever_ready=True)
    machine, effects = step(machine, replace(REFUSED, words=words), now=NOW, policy=POLICY)
    assert machine.state is State.FAILED
    assert effects == (SetTimer(GENERATION, Timer.RETRY, POLICY.restart.cooldown_s),)


def test_exit_1_is_passing_once_the_settings_have_worked() -> None:
    machine = replace(machine_in(State.LOADING), ever_ready=True)
    machine, _ = step(machine, REFUSED, now=NOW, policy=POLICY)
    assert machine.state is State.BACKOFF


def test_a_spawn_that_fails_after_the_engine_has_worked_is_tried_again() -> None:
    machine = replace(machine_in(State.STARTING), ever_ready=True)
    machine, effects = step(machine, EVENTS["spawn failed"], now=NOW, policy=POLICY)
    assert (machine.state, effects) == (State.BACKOFF, RETRY)


def test_the_engines_slots_are_known_once_it_is_ready() -> None:
    machine, _ = step(machine_in(State.LOADING), Answered(GENERATION, ready=True, slots=4), now=NOW, policy=POLICY)
    assert machine.slots == 4


def dying(machine: Machine, *, times: int, every_s: float) -> Machine:
    """Let the engine become ready and be killed, again and again."""
    now = machine.since
    for _ in range(times):
        generation = machine.generation
        machine, _ = step(machine, Answered(generation, ready=True), now=now, policy=POLICY)
        now += every_s
        machine, _ = step(machine, Exited(generation, Exit(signal=9), 0.5), now=now, policy=POLICY)
        if machine.state is State.BACKOFF:
            machine, _ = step(machine, TimerFired(generation, Timer.RETRY), now=now, policy=POLICY)
    return machine


def test_deaths_after_ready_open_the_breaker_too() -> None:
    machine = dying(machine_in(State.STARTING), times=3, every_s=10)
    assert machine.state is State.FAILED
    assert machine.retry_at == machine.since + POLICY.restart.cooldown_s


def test_loads_that_fail_open_the_breaker_however_long_they_take() -> None:
    machine, now = machine_in(State.STARTING), NOW
    for _ in range(POLICY.restart.breaker_deaths):
        assert machine.state is State.STARTING
        now += 10 * POLICY.restart.breaker_window_s
        generation = machine.generation
        machine, _ = step(machine, Exited(generation, Exit(signal=9), 0.5), now=now, policy=POLICY)
        if machine.state is State.BACKOFF:
            machine, _ = step(machine, TimerFired(generation, Timer.RETRY), now=now, policy=POLICY)
    assert machine.state is State.FAILED


def test_deaths_outside_the_window_do_not_count() -> None:
    machine = dying(machine_in(State.STARTING), times=9, every_s=51)
    assert machine.state is State.STARTING
    assert machine.restarts == 9


def test_after_the_cool_down_a_single_death_opens_the_breaker_again() -> None:
    machine = dying(machine_in(State.STARTING), times=3, every_s=1)
    later = machine.since + POLICY.restart.cooldown_s
    machine, effects = step(machine, TimerFired(machine.generation, Timer.RETRY), now=later, policy=POLICY)
    assert isinstance(effects[0], Spawn)
    machine, _ = step(machine, Exited(machine.generation, Exit(signal=6), 0.5), now=later + 1, policy=POLICY)
    assert machine.state is State.FAILED


def test_the_wait_doubles_and_falls_back_after_a_stable_time() -> None:
    machine = machine_in(State.STARTING)
    waits = []
    for stable_s in (1, 1, POLICY.restart.stable_s):
        machine = replace(machine, deaths=())
        generation = machine.generation
        machine, _ = step(machine, Answered(generation, ready=True), now=NOW, policy=POLICY)
        at = NOW + stable_s
        machine, effects = step(machine, Exited(generation, Exit(signal=9), 0.5), now=at, policy=POLICY)
        assert isinstance(effects[0], SetTimer)
        waits.append(effects[0].delay_s)
        machine, _ = step(machine, TimerFired(generation, Timer.RETRY), now=at, policy=POLICY)
    assert waits == [0.25, 0.5, 0.25]


FRESH = st.sampled_from(list(EVENTS))


@given(st.lists(st.tuples(FRESH, st.floats(0, 30), st.booleans())))
def test_whatever_happens_there_is_one_child_at_most_and_a_stop_is_kept(
    happenings: list[tuple[str, float, bool]],
) -> None:
    machine, now = Machine(), 0.0
    children: set[int] = set()
    answered: set[int] = set()
    for name, passed_s, stale in happenings:
        now += passed_s
        event = EVENTS[name]
        if not isinstance(event, Start | Stop):
            event = replace(event, generation=machine.generation - stale)
            ended = isinstance(event, Exited | SpawnFailed)
            if ended and event.generation not in children:
                continue  # nobody can end twice
            if isinstance(event, Answered):
                if event.generation not in children:
                    continue
                answered.add(event.generation)
            if isinstance(event, Stalled) and event.generation not in children:
                continue
            if isinstance(event, SpawnFailed) and event.generation in answered:
                continue  # it was made, for it has answered
            if ended:
                children.discard(event.generation)
        before = machine
        machine, effects = step(machine, event, now=now, policy=POLICY)
        children |= {effect.generation for effect in effects if isinstance(effect, Spawn)}
        assert len(children) <= 1
        assert (machine.state in ALIVE) == bool(children)
        assert machine.state is before.state or machine.state in TRANSITIONS[before.state]
        assert machine.lowered <= POLICY.rungs
        if machine.state is State.READY:
            assert machine.generation in children & answered
        if isinstance(event, Stop):
            assert machine.state in {State.STOPPED, State.STOPPING}
        if machine.state is State.BACKOFF:
            assert machine.retry_at is not None
            assert machine.retry_at - machine.since <= POLICY.restart.backoff_cap_s
        if machine.state in {State.STOPPED, State.STOPPING} and not isinstance(event, Start):
            assert machine.wanted is before.wanted or isinstance(event, Stop)
