"""Who gets in, on the real service."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import Supervisor

PROMPT = {"prompt": "The sea", "max_tokens": 4}
COMPLETIONS = "/v1/completions"


@pytest.fixture(scope="module")
def public(engine_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    assert engine_build.exists()
    state_dir = tmp_path_factory.mktemp("public") / "state"
    with Supervisor(state_dir, "--host", "0.0.0.0") as supervisor:
        yield supervisor.wait_ready()


def key_of(supervisor: Supervisor) -> str:
    return supervisor.banner("API key").split()[0]


def test_a_public_address_makes_a_key_and_keeps_only_its_hash(public: Supervisor) -> None:
    key = key_of(public)
    assert key.startswith("rsk_")
    written = [path for path in public.state_dir.rglob("*") if path.is_file()]
    assert public.layout.keys in written
    assert all(key.encode() not in path.read_bytes() for path in written)
    assert public.layout.keys.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
def test_the_key_opens_the_door(public: Supervisor, header: str) -> None:
    value = f"Bearer {key_of(public)}" if header == "Authorization" else key_of(public)
    response = httpx.post(f"{public.url}{COMPLETIONS}", json=PROMPT, headers={header: value})
    assert response.status_code == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer rsk_wrong"}, {"x-api-key": "wrong"}])
@pytest.mark.parametrize("path", [COMPLETIONS, "/slots", "/no/such/path"])
def test_no_key_or_a_wrong_one_gets_401_in_openais_shape(
    public: Supervisor, path: str, headers: dict[str, str]
) -> None:
    response = httpx.post(f"{public.url}{path}", json=PROMPT, headers=headers)
    assert response.status_code == 401
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("authentication_error", "invalid_api_key", None)


def test_health_is_open_and_metrics_are_not(public: Supervisor) -> None:
    assert httpx.get(f"{public.url}/health").status_code == 200
    assert httpx.get(f"{public.url}/metrics").status_code == 401
    key = {"x-api-key": key_of(public)}
    assert "runner_engine_up 1.0" in httpx.get(f"{public.url}/metrics", headers=key).text


def test_the_banners_curl_line_works(public: Supervisor, service: Supervisor) -> None:
    for supervisor in (public, service):
        line = supervisor.printed[-1]
        done = subprocess.run(["bash", "-c", f"{line} -sf"], capture_output=True, text=True, check=True)
        assert '"finish_reason"' in done.stdout


def test_a_loopback_address_is_open_but_not_to_pages_from_elsewhere(service: Supervisor) -> None:
    assert httpx.post(f"{service.url}{COMPLETIONS}", json=PROMPT).status_code == 200
    foreign = httpx.post(f"{service.url}{COMPLETIONS}", json=PROMPT, headers={"origin": "https://evil.example"})
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "foreign_origin")


def test_admin_calls_need_an_admin_key_on_the_network(public: Supervisor, service: Supervisor) -> None:
    for url, headers in ((service.url, {}), (public.url, {"x-api-key": key_of(public)})):
        response = httpx.post(f"{url}/admin/stop", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (403, "wrong_scope")
        assert httpx.get(f"{url}/admin/status", headers=headers).status_code == 403
    admin = {"x-api-key": public.create_key("operator", "--scope", "admin")}
    assert httpx.get(f"{public.url}/admin/status", headers=admin).json()["engine"]["state"] == "ready"


def test_given_keys_close_a_loopback_address_and_stay_out_of_the_engine(engine_build: Path, short_dir: Path) -> None:
    assert engine_build.exists()
    environment = dict(os.environ) | {"RUNNER_API_KEYS": "first-secret, second-secret"}
    with Supervisor(short_dir / "state", environment=environment) as supervisor:
        supervisor.wait_ready()
        assert httpx.post(f"{supervisor.url}{COMPLETIONS}", json=PROMPT).status_code == 401
        key = {"x-api-key": "second-secret"}
        assert httpx.post(f"{supervisor.url}{COMPLETIONS}", json=PROMPT, headers=key).status_code == 200
        inherited = Path(f"/proc/{supervisor.engine_pid}/environ").read_bytes()
    assert b"secret" not in inherited
    assert b"RUNNER_" not in inherited


def test_an_address_may_be_left_open_and_that_is_said_loudly(engine_build: Path, short_dir: Path) -> None:
    assert engine_build.exists()
    with Supervisor(short_dir / "state", "--host", "0.0.0.0", "--insecure-no-auth") as supervisor:
        supervisor.wait_ready()
        assert httpx.post(f"{supervisor.url}{COMPLETIONS}", json=PROMPT).status_code == 200
        assert "INSECURE: whoever can reach 0.0.0.0 may use it, without a key" in supervisor.log
        assert supervisor.banner("INSECURE") == "whoever can reach 0.0.0.0 may use it, without a key"
        supervisor.create_key("first")
        assert httpx.post(f"{supervisor.url}{COMPLETIONS}", json=PROMPT).status_code == 401
