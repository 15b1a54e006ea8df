"""What is exported is what is listed, named as Prometheus asks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pynvml
import pytest
from prometheus_client.parser import text_string_to_metric_families

from runner_supervisor.core.lifecycle import Machine
from runner_supervisor.core.restart import Cause, Death
from runner_supervisor.core.states import State
from runner_supervisor.front.audit import ANSWERED, refused
from runner_supervisor.front.figures import Figures
from runner_supervisor.front.metrics import SERIES, Metrics
from runner_supervisor.front.metrics.engine import Engines
from runner_supervisor.front.metrics.requests import Tally

GIB = 1 << 30
OWN = "# HELP llamacpp:n_decode_total Calls.\n# TYPE llamacpp:n_decode_total counter\nllamacpp:n_decode_total 3\n"


class Driver:
    """NVML with two GPUs, the second of which does not say how busy it is."""

    def __init__(self) -> None:
        self.begun = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.begun += 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle: int) -> str:  # noqa: N802
        return f"GPU of kind {handle}"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=(handle + 1) * 8 * GIB, used=GIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        return SimpleNamespace(gpu=75)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    for name in (name for name in dir(driver) if name.startswith("nvml")):
        monkeypatch.setattr(pynvml, name, getattr(driver, name))
    return driver


@pytest.fixture
def engine() -> Any:
    binary = SimpleNamespace(commit="c0ffee", backend="cpu")
    return SimpleNamespace(
        machine=Machine(state=State.READY),
        slots=4,
        rss_bytes=GIB,
        load_s=2.5,
        metrics=OWN,
        spec=SimpleNamespace(needed_bytes=2 * GIB, binary=binary),
    )


@pytest.fixture
def metrics(engine: Any) -> Metrics:
    tally = Tally()
    tally.by_key = True
    cost = Figures(10, 4, 5)
    for outcome in (ANSWERED, refused("queue_full")):
        tally.ended("m", "/p", 200, outcome, key="k", cost=cost, began_s=1.0, first_s=2.0, now_s=3.0)
    tally.controlled("/health", 200)
    return Metrics(tally=tally, engines=cast("Engines", SimpleNamespace(current=engine)))


def samples(metrics: Metrics) -> dict[str, float]:
    return {
        f"{sample.name}{list(sample.labels.values())}": sample.value
        for family in text_string_to_metric_families(asyncio.run(metrics.scrape()).decode())
        for sample in family.samples
    }


def families(text: str) -> Iterator[tuple[str, str]]:
    """Names and types of what is exported, but for what is not ours."""
    for line in text.splitlines():
        if line.startswith("# TYPE ") and not line.startswith(("# TYPE llamacpp:", "# TYPE process_")):
            _, _, name, kind = line.split()
            yield name, kind


def test_all_that_is_exported_is_listed_and_all_that_is_listed_is_exported(metrics: Metrics, driver: Driver) -> None:
    exported = list(families(asyncio.run(metrics.scrape()).decode()))
    assert sorted(exported) == sorted((each.name, each.kind) for each in SERIES)
    assert driver.begun == 1


def test_gpus_are_shown_as_their_driver_sees_them(metrics: Metrics, driver: Driver) -> None:
    now = samples(metrics)
    samples(metrics)
    assert now["runner_gpu_utilization_ratio['0', 'GPU of kind 0']"] == 0.75
    assert "runner_gpu_utilization_ratio['1', 'GPU of kind 1']" not in now
    assert now["runner_gpu_memory_bytes['1', 'GPU of kind 1']"] == 16 * GIB
    assert driver.begun == 1


def test_without_a_driver_there_are_no_series_of_gpus(metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", none)
    assert not any(name.startswith("runner_gpu") for name in samples(metrics))


def test_the_engine_is_shown_as_it_is_now(metrics: Metrics, engine: Any) -> None:
    now = samples(metrics)
    assert now["runner_engine_up[]"] == 1
    assert now["runner_engine_load_seconds[]"] == 2.5
    assert now["llamacpp:n_decode_total[]"] == 3
    engine.machine, engine.metrics, engine.load_s = Machine(state=State.BACKOFF), None, None
    now = samples(metrics)
    assert now["runner_engine_up[]"] == 0
    assert now["runner_engine_state['backoff']"] == 1
    assert not {"runner_engine_load_seconds[]", "llamacpp:n_decode_total[]"} & set(now)


def test_each_death_is_counted_once(metrics: Metrics) -> None:
    death = Death(cause=Cause.STALL, detail="", at=1.0, was_ready=True)
    for state in (State.BACKOFF, State.STARTING):
        metrics.engine.heard(Machine(state=state, last_death=death))
    assert (samples(metrics))["runner_engine_deaths_total['stall']"] == 1


def test_a_death_that_a_follower_shows_again_is_not_counted_again(metrics: Metrics) -> None:
    early, late = (Death(cause=cause, detail="", at=at, was_ready=True) for cause, at in
                   ((Cause.OOM, 1.0), (Cause.CRASH, 2.0)))  # fmt: skip
    for death, restarts in ((early, 1), (late, 2), (early, 1), (early, 2)):
        metrics.engine.heard(Machine(state=State.READY, last_death=death, restarts=restarts))
    now = samples(metrics)
    assert (now["runner_engine_deaths_total['oom']"], now["runner_engine_deaths_total['crash']"]) == (1, 1)
    assert now["runner_engine_restarts_total[]"] == 3


def test_processors_spend_time(metrics: Metrics) -> None:
    now = samples(metrics)
    assert now["runner_host_cpu_seconds_total['user']"] > 0
    assert 0 < now["runner_host_memory_available_bytes[]"] < now["runner_host_memory_bytes[]"]
