"""Admission: bounded, work-conserving, fair."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner_supervisor.core.admission import Admission, Share

A, B = Share("a"), Share("b")


def drain(admission: Admission[str], count: int) -> list[str]:
    """Let one admitted item end after the other, and say who took its place."""
    order = []
    for _ in range(count):
        admission.release()
        item = admission.admit_next()
        assert item is not None
        order.append(item)
    return order


def test_free_slots_are_given_at_once_and_then_it_queues_up_to_the_bound() -> None:
    admission: Admission[str] = Admission(slots=2, queue_size=2)
    assert [admission.enter(f"a{number}", A) for number in range(5)] == [0, 0, 1, 2, None]
    assert admission.admit_next() is None


def test_the_first_request_of_a_key_goes_before_a_flood_of_another() -> None:
    admission: Admission[str] = Admission(slots=1, queue_size=1000)
    for number in range(500):
        admission.enter(f"a{number}", A)
    drain(admission, 5)
    admission.enter("b0", B)
    assert drain(admission, 2) == ["b0", "a6"]


def test_a_key_that_asks_one_at_a_time_shares_evenly_and_starves_nobody() -> None:
    admission: Admission[str] = Admission(slots=1, queue_size=1000)
    for number in range(100):
        admission.enter(f"a{number}", A)
    served: Counter[str] = Counter()
    for turn in range(60):
        for name in "bc":
            if not any(name in lane for lane in admission._lanes):
                admission.enter(f"{name}{turn}", Share(name))
        served[drain(admission, 1)[0][0]] += 1
    assert served == {"a": 20, "b": 20, "c": 20}


@pytest.mark.parametrize(("heavy", "light"), [(3, 1), (2, 0.5), (1, 1)])
def test_weights_are_kept(heavy: float, light: float) -> None:
    admission: Admission[str] = Admission(slots=4, queue_size=10_000)
    for number in range(1000):
        admission.enter(f"a{number}", Share("a", weight=heavy))
        admission.enter(f"b{number}", Share("b", weight=light))
    served = Counter(item[0] for item in drain(admission, 500))
    assert served["a"] / served["b"] == pytest.approx(heavy / light, rel=0.05)


def test_a_higher_priority_goes_first() -> None:
    admission: Admission[str] = Admission(slots=1, queue_size=10)
    for name in ("now", "low1", "low2"):
        admission.enter(name, A)
    admission.enter("high", Share("b", priority=1))
    assert drain(admission, 3) == ["high", "low1", "low2"]


def test_who_leaves_frees_its_place_in_the_queue() -> None:
    admission: Admission[str] = Admission(slots=1, queue_size=2)
    for name in ("now", "a1", "a2"):
        admission.enter(name, A)
    assert admission.leave("a1", "a")
    assert not admission.leave("a1", "a")
    assert admission.enter("b1", B) == 2
    assert drain(admission, 2) == ["b1", "a2"]
    assert not admission.leave("a2", "a")


def test_who_is_put_back_goes_before_all_others_of_its_key() -> None:
    admission: Admission[str] = Admission(slots=1, queue_size=2)
    for name in ("a0", "a1", "b0"):
        admission.enter(name, Share(name[0]))
    admission.release()
    admission.put_back("a0", A)
    assert admission.admit_next() == "b0"
    assert drain(admission, 2) == ["a0", "a1"]


def test_priorities_that_outrun_virtual_time_leave_nothing_behind() -> None:
    admission: Admission[str] = Admission(slots=1, queue_size=500)
    admission.enter("now", A)
    for number in range(100):
        admission.enter(f"h{number}", Share("h", priority=1))
        admission.enter(f"l{number}a", Share(f"l{number}"))
        admission.enter(f"l{number}b", Share(f"l{number}"))
    assert len(set(drain(admission, 300))) == 300


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "leave", "end", "slots"]), st.integers(0, 6), st.sampled_from([0.5, 1.0, 3.0])
    ),
    max_size=300,
)


@given(STEPS)
def test_whatever_happens_it_is_bounded_and_no_slot_idles_while_somebody_waits(
    steps: list[tuple[str, int, float]],
) -> None:
    admission: Admission[int] = Admission(slots=2, queue_size=4)
    waiting: dict[int, str] = {}
    working: list[int] = []
    for number, (step, which, weight) in enumerate(steps):
        if step == "enter":
            place = admission.enter(number, Share(f"k{which}", weight=weight))
            if place == 0:
                working.append(number)
            elif place is not None:
                waiting[number] = f"k{which}"
        elif step == "leave" and waiting:
            item = list(waiting)[which % len(waiting)]
            assert admission.leave(item, waiting.pop(item))
        elif step == "end" and working:
            working.pop(which % len(working))
            admission.release()
        elif step == "slots":
            admission.slots = 1 + which % 3
        while (item := admission.admit_next()) is not None:
            del waiting[item]
            working.append(item)
        assert admission.busy == len(working)
        assert admission.queued == len(waiting) <= admission.queue_size
        assert not waiting or len(working) >= admission.slots
        assert len(admission._finished) <= 2 * len(admission._lanes) + 65
    while working:
        working.pop()
        admission.release()
        while (item := admission.admit_next()) is not None:
            del waiting[item]
            working.append(item)
    assert not waiting
