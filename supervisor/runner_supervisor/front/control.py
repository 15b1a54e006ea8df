"""What the front answers itself, by FastAPI: health, metrics, and the admin calls behind `status` and `stop`.

Who may ask has been settled before a request comes here (see `front.heads` and `front.routes`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from runner_supervisor import __version__
from runner_supervisor.core.restart import Cause
from runner_supervisor.core.states import State
from runner_supervisor.engine.succession import Succession
from runner_supervisor.engine.supervisor import describe
from runner_supervisor.front.changes import Change, Changes
from runner_supervisor.front.metrics import Metrics
from runner_supervisor.front.pages.pulse import Pulse
from runner_supervisor.front.pages.views import pages
from runner_supervisor.front.replies import BUSY_CHANGING, DRAINING, Refusal, RefusedError
from runner_supervisor.front.stamp import Stamp
from runner_supervisor.front.visit import Desk
from runner_supervisor.logformat import level_now, set_level
from runner_supervisor.settings import LogLevel

PROMETHEUS_TEXT = "text/plain; version=0.0.4; charset=utf-8"
"""What every scraper reads (prometheus.io/docs/instrumenting/exposition_formats)."""


class Health(BaseModel):
    """What /health answers: 200 while requests are served, else 503."""

    status: str
    engine: State


@dataclass(frozen=True, slots=True)
class Load:
    """What the front is doing: requests in flight, of which `queued` wait for a slot; how long a stop may take."""

    draining: bool
    in_flight: int
    queued: int
    ends_within_s: float


class EngineStatus(BaseModel):
    """The engine, as `status` shows it. Times are seconds.

    `memory_bytes`: resident now; `needed_bytes`: as estimated. `lowered`: what it runs with less of since memory
    ran out. `last_cause`, `last_death`, `last_lines`: why the one before it ended, and its last lines.
    """

    state: State
    state_age_s: float
    pid: int | None
    slots: int
    model: str
    backend: str
    commit: str
    memory_bytes: int
    needed_bytes: int
    lowered: list[str]
    restarts: int
    last_cause: Cause | None
    last_death: str | None
    last_death_age_s: float | None
    last_lines: list[str]
    retry_in_s: float | None
    log: str


class Status(BaseModel):
    """The whole service, as `status --json` prints it. `ends_within_s`: how long a stop may take, in seconds."""

    version: str
    pid: int
    uptime_s: float
    address: str
    draining: bool
    in_flight: int
    queued: int
    ends_within_s: float
    engine: EngineStatus
    change: Change | None


class Logging(BaseModel):
    """The least level of the supervisor's own log lines."""

    level: str


def create_control_app(
    *,
    engines: Succession,
    changes: Callable[[], Changes],
    desk: Desk,
    metrics: Metrics,
    pulse: Pulse,
    version: Callable[[], int],
    address: Callable[[], str],
    load: Callable[[], Load],
    stop: Callable[[], None],
) -> FastAPI:
    """The FastAPI application.

    Args:
        engines: whose health this is.
        changes: gives who carries out reloads and restarts.
        desk: where calls of /admin are written down.
        metrics: the front's own series.
        pulse: what the status page shows.
        version: grows when a key may have ceased to be good.
        address: gives the URL that clients use.
        load: gives what the front is doing.
        stop: begins a drain and then the end.
    """
    app = FastAPI(
        title="runner-supervisor",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    began = time.monotonic()

    @app.exception_handler(RefusedError)
    async def refused(_request: Request, error: RefusedError) -> Response:
        refusal = error.refusal
        return Response(refusal.body(), status_code=refusal.status, headers=refusal.headers())

    @app.exception_handler(HTTPException)
    async def not_found(_request: Request, error: HTTPException) -> Response:
        refusal = Refusal(error.status_code, "not_found", f"{error.detail}.")
        return Response(refusal.body(), status_code=refusal.status, headers=refusal.headers())

    @app.exception_handler(RequestValidationError)
    async def not_understood(_request: Request, error: RequestValidationError) -> Response:
        fault = error.errors()[0]
        refusal = Refusal(400, "bad_request", f"{fault['loc'][-1]}: {fault['msg']}.")
        return Response(refusal.body(), status_code=refusal.status, headers=refusal.headers())

    @app.api_route("/health", methods=["GET", "HEAD"])
    @app.api_route("/health/ready", methods=["GET", "HEAD"])
    async def ready() -> Response:
        engine = engines.current
        draining = load().draining
        serving = engine.state is State.READY and not draining
        status = "ok" if serving else "draining" if draining else "unavailable"
        body = Health(status=status, engine=engine.state)
        return JSONResponse(body.model_dump(), status_code=200 if serving else 503)

    @app.api_route("/health/live", methods=["GET", "HEAD"])
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def scrape() -> Response:
        return Response(await metrics.scrape(), headers={"content-type": PROMETHEUS_TEXT})

    @app.get("/admin/status")
    async def status() -> Status:
        now = load()
        engine = engines.current
        death = engine.machine.last_death
        return Status(
            version=__version__,
            pid=os.getpid(),
            uptime_s=time.monotonic() - began,
            address=address(),
            draining=now.draining,
            in_flight=now.in_flight,
            queued=now.queued,
            ends_within_s=now.ends_within_s,
            engine=EngineStatus(
                state=engine.state,
                state_age_s=engine.state_age_s,
                pid=engine.pid,
                slots=engine.slots,
                model=str(engine.spec.model),
                backend=engine.spec.binary.backend,
                commit=engine.spec.binary.commit,
                memory_bytes=engine.rss_bytes,
                needed_bytes=engine.spec.needed_bytes,
                lowered=engine.lowered,
                restarts=engine.machine.restarts,
                last_cause=death.cause if death else None,
                last_death=describe(death) if death else None,
                last_death_age_s=time.monotonic() - death.at if death else None,
                last_lines=list(death.words) if death else [],
                retry_in_s=engine.retry_in_s,
                log=str(engine.log.path),
            ),
            change=changes().last,
        )

    @app.get("/admin/log-level")
    async def log_level() -> Logging:
        return Logging(level=level_now())

    @app.post("/admin/log-level")
    async def change_log_level(level: LogLevel) -> Logging:
        set_level(level)
        return Logging(level=level_now())

    @app.post("/admin/reload", status_code=202)
    async def begin_reload() -> Change | None:
        if load().draining:
            raise RefusedError(DRAINING)
        if not changes().reload():
            raise RefusedError(BUSY_CHANGING)
        return changes().last

    @app.post("/admin/restart", status_code=202)
    async def begin_restart() -> Change | None:
        if load().draining:
            raise RefusedError(DRAINING)
        if not changes().restart():
            raise RefusedError(BUSY_CHANGING)
        return changes().last

    @app.post("/admin/stop", status_code=202)
    async def begin_stop() -> dict[str, str]:
        stop()
        return {"status": "draining"}

    app.include_router(pages(engines=engines, pulse=pulse, version=version))
    app.add_middleware(Stamp, desk=desk)
    return app
