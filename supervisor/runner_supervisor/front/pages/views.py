"""The routes of the pages: their files, the events behind them, and cancelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse, StreamingResponse

from runner_supervisor.core.access import Scope
from runner_supervisor.core.states import State
from runner_supervisor.engine.probe import Probe
from runner_supervisor.engine.succession import Succession
from runner_supervisor.front.pages.files import File, read_files
from runner_supervisor.front.pages.pulse import Pulse
from runner_supervisor.front.replies import NO_SUCH_PATH, NO_SUCH_REQUEST, RefusedError

READ = ["GET", "HEAD"]
EVENTS: Mapping[str, str] = {"x-accel-buffering": "no"}
"""Tells nginx to pass events on as they come."""


def pages(*, engines: Succession, pulse: Pulse, version: Callable[[], int]) -> APIRouter:
    """The routes.

    Args:
        engines: of which the one that serves may have a chat page of its own.
        pulse: what the status page shows.
        version: grows when a key may have ceased to be good.
    """
    router = APIRouter()
    files = read_files()
    has_page: dict[Path, bool] = {}
    """By the engine's socket; of the one that was asked last."""

    @router.api_route("/", methods=READ)
    async def front_door() -> Response:
        """llama-server's own chat page where it has one, else ours."""
        engine = engines.current
        if engine.state is State.READY:
            if engine.socket not in has_page:
                async with Probe(engine.socket) as probe:
                    found = await probe.has_page()
                has_page.clear()
                has_page[engine.socket] = found
            if has_page[engine.socket]:
                return RedirectResponse("/index.html")
        return RedirectResponse("/playground")

    @router.api_route("/dashboard", methods=READ)
    async def dashboard(request: Request) -> Response:
        return serve(files["dashboard.html"], request)

    @router.api_route("/playground", methods=READ)
    async def playground(request: Request) -> Response:
        return serve(files["playground.html"], request)

    @router.api_route("/dashboard/{name}", methods=READ)
    async def part(name: str, request: Request) -> Response:
        if name not in files:
            raise RefusedError(NO_SUCH_PATH)
        return serve(files[name], request)

    @router.get("/admin/events")
    async def events(request: Request) -> Response:
        may_act = request.state.principal.may(Scope.ADMIN)
        judged_at = version()
        stream = pulse.follow(
            may_act=may_act,
            last_id=request.headers.get("last-event-id", ""),
            good=lambda: version() == judged_at,
        )
        return StreamingResponse(stream, media_type="text/event-stream", headers=EVENTS)

    @router.post("/admin/requests/{request_id}/cancel")
    async def cancel(request_id: str) -> dict[str, int]:
        found = pulse.find(request_id)
        if not found:
            raise RefusedError(NO_SUCH_REQUEST)
        for live in found:
            live.cancel()
        return {"cancelled": len(found)}

    return router


def serve(file: File, request: Request) -> Response:
    """The file, or that the client has it already."""
    if file.matches(request.headers.get("if-none-match", "")):
        return Response(status_code=304, headers=file.headers)
    return Response(file.body, headers=file.headers)
