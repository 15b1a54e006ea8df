"""The proxy that one writes first: FastAPI, StreamingResponse and httpx. Here to be compared with."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import httpx
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from bench.load import KEY

DROPPED = {"connection", "content-length", "transfer-encoding", "authorization", "host"}


def create(engine_port: int) -> FastAPI:
    """The application."""
    app = FastAPI()
    client = httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{engine_port}", timeout=300, limits=httpx.Limits(max_connections=None)
    )

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    async def forward(path: str, request: Request) -> Response:
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return Response(status_code=401)
        headers = {name: value for name, value in request.headers.items() if name not in DROPPED}
        url = f"/{path}?{request.url.query}"
        upstream = await client.send(
            client.build_request(request.method, url, headers=headers, content=await request.body()), stream=True
        )

        async def body() -> AsyncIterator[bytes]:
            async for chunk in upstream.aiter_raw():
                yield chunk
            await upstream.aclose()

        kept = {name: value for name, value in upstream.headers.items() if name != "transfer-encoding"}
        return StreamingResponse(body(), status_code=upstream.status_code, headers=kept)

    return app


def main() -> None:
    """Command line: our port, the engine's port."""
    port, engine_port = int(sys.argv[1]), int(sys.argv[2])
    uvicorn.run(create(engine_port), host="127.0.0.1", port=port, access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
