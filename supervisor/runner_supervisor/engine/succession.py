"""The engine that serves, and the one that is to follow it: two only while one takes over from the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from runner_supervisor.core.lifecycle import Machine, Policy
from runner_supervisor.core.states import State
from runner_supervisor.engine.supervisor import EngineSpec, EngineSupervisor, Transition

Make = Callable[[EngineSpec, Policy, str, Machine | None], EngineSupervisor]
"""Makes an engine's supervisor: what to run and how, a name for its files, and the machine it follows, if any."""


class Succession:
    """Owns every engine there is. `current` serves; observers hear of its changes of state alone.

    `made`: how many there have been.
    """

    def __init__(self, make: Make, spec: EngineSpec, policy: Policy) -> None:
        self._make = make
        self.made = 0
        self._owners: dict[EngineSupervisor, asyncio.Task[None]] = {}
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.observers: list[Callable[[Transition], None]] = []
        self.current = self.prepare(spec, policy)

    def prepare(self, spec: EngineSpec, policy: Policy) -> EngineSupervisor:
        """One more engine, which nobody uses yet and which has not been started."""
        self.made += 1
        past = self.current.machine if self.made > 1 else None
        engine = self._make(spec, policy, str(self.made), past)
        engine.observers.append(lambda transition: self._heard(engine, transition))
        task = asyncio.create_task(engine.run(), name=f"engine-{self.made}")
        task.add_done_callback(self._ended)
        self._owners[engine] = task
        return engine

    def promote(self, engine: EngineSupervisor) -> None:
        """From now on `engine` serves."""
        before, self.current = self.current.state, engine
        self._heard(engine, Transition(before=before, machine=engine.machine))

    async def retire(self, engine: EngineSupervisor, *, timeout_s: float) -> None:
        """End an engine: as it ends when asked, or by force when that takes longer than `timeout_s` seconds."""
        engine.stop()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(engine.wait_for(State.STOPPED), timeout_s)
        owner = self._owners.pop(engine)
        owner.cancel()
        await asyncio.wait({owner}, timeout=timeout_s)

    async def run(self) -> None:
        """Own them until cancelled, or until one fails in a way that nobody foresaw; then end what is left."""
        try:
            await self._failed
        finally:
            owners = list(self._owners.values())
            for owner in owners:
                owner.cancel()
            await asyncio.gather(*owners, return_exceptions=True)

    async def stop(self) -> None:
        """Stop them all, and wait until they have."""
        for engine in self._owners:
            engine.stop()
        await asyncio.gather(*(engine.wait_for(State.STOPPED) for engine in self._owners))

    def _ended(self, owner: asyncio.Task[None]) -> None:
        if not owner.cancelled() and (error := owner.exception()) and not self._failed.done():
            self._failed.set_exception(error)

    def _heard(self, engine: EngineSupervisor, transition: Transition) -> None:
        if engine is self.current:
            for observer in self.observers:
                observer(transition)
