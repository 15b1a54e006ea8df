"""Every route, asked with each scope, with none and without a key: who is let in is what docs/routes.md says."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import Supervisor

from runner_supervisor.core.access import Scope
from runner_supervisor.front.routes import CONTROL, ROUTES, Route

HOSTS = (f"{high}.{low}" for high, low in itertools.product(range(256), repeat=2))
BRIEF = b"""{"prompt": "a", "n_predict": 1, "max_tokens": 1, "max_output_tokens": 1}"""
UNLISTED = "/no/such/path"
ASKED = {**ROUTES, **CONTROL, "/slots/0": ROUTES["/slots"], "/admin/status": CONTROL["/admin"], "/app.js": None}
HARMLESS = {"/admin": "/admin/nothing"}
"""Paths whose own name would do something."""

ENDLESS = "/admin/events"


@pytest.fixture(scope="module")
def keys(engine_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, str]]]:
    """A supervisor's address, and a key for each scope."""
    assert engine_build.exists()
    environment = os.environ | {"RUNNER_TRUSTED_PROXIES": "127.0.0.1"}
    with Supervisor(tmp_path_factory.mktemp("rs") / "s", environment=environment) as supervisor:
        supervisor.wait_ready()
        made = {scope.value: supervisor.create_key(scope.value, "--scope", scope.value) for scope in Scope}
        yield supervisor.url, made


def expected(scope: Scope | None, holder: str | None) -> str:
    if scope is None or holder in {scope, "admin"}:
        return "in"
    return "401" if holder in {None, "wrong"} else "403"


def seen(response: httpx.Response, *, listed: bool) -> str:
    code = response.status_code
    if code == 401:
        return "401"
    refused = {"wrong_scope"} if listed else {"not_found"}
    if code in {403, 404} and response.json().get("error", {}).get("code") in refused:
        return "403"
    return "in"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", [*ASKED, UNLISTED])
def test_a_route_lets_in_whom_it_is_for(keys: tuple[str, dict[str, str]], path: str, method: str) -> None:
    url, made = keys
    route: Route | None = ASKED.get(path)
    listed = path != UNLISTED
    if path == "/app.js":
        scope = None if method == "GET" else Scope.ADMIN
    else:
        scope = Scope.ADMIN if route is None else route.needs(method.encode())
    found = {}
    wanted = {}
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        for holder in (None, "wrong", *made):
            headers = {} if holder is None else {"authorization": f"Bearer {made.get(holder, 'rsk_wrong')}"}
            headers["x-forwarded-for"] = f"10.0.{next(HOSTS)}"  # wrong keys from one address are answered ever later
            content = BRIEF if method == "POST" else None
            asked = HARMLESS.get(path, path)
            wanted[holder] = expected(scope, holder)
            with client.stream(method, asked, headers=headers, content=content) as response:
                if asked != ENDLESS or response.is_error:
                    response.read()
                found[holder] = seen(response, listed=listed)
    assert found == wanted
