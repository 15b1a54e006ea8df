"""HTTPS on the real service: asked by the banner's own line, renewed while it serves, and no other way in."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from tests.component.tls_rig import Files, issue
from tests.e2e.conftest import Supervisor, eventually

from runner_supervisor.errors import ConfigError

PROMPT = {"prompt": "The sea", "max_tokens": 200, "stream": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return issue(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def secure(engine_build: Path, tmp_path_factory: pytest.TempPathFactory, files: Files) -> Iterator[Supervisor]:
    assert engine_build.exists()
    flags = ("--tls-cert", str(files.certificate), "--tls-key", str(files.key))
    with Supervisor(tmp_path_factory.mktemp("rs") / "s", *flags) as supervisor:
        yield supervisor.wait_ready()


def serial(supervisor: Supervisor, files: Files) -> object:
    """The certificate's that a new connection gets."""
    parts = urlsplit(supervisor.url)
    with (
        socket.create_connection((parts.hostname, parts.port), 10) as plain,
        files.client().wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        return (connection.getpeercert() or {})["serialNumber"]


def test_the_banners_line_works_with_the_authoritys_certificate(
    secure: Supervisor, files: Files, tmp_path: Path
) -> None:
    assert secure.url.startswith("https://127.0.0.1:")
    authority = tmp_path / "authority.pem"
    files.authority.cert_pem.write_to_path(str(authority))
    line = secure.printed[-1].replace(str(files.certificate), str(authority))
    done = subprocess.run(["bash", "-c", f"{line} -sf"], capture_output=True, text=True, check=True)
    assert '"finish_reason"' in done.stdout


def test_streams_and_large_bodies_pass(secure: Supervisor, files: Files) -> None:
    with httpx.Client(base_url=secure.url, verify=files.client(), timeout=60) as client:
        answer = client.post("/v1/completions", json=PROMPT)
        assert answer.text.endswith("data: [DONE]\n\n")
        padded = {"content": "a", "padding": "x" * (4 << 20)}
        assert client.post("/tokenize", json=padded).status_code == 200


def test_plain_http_is_refused(secure: Supervisor) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(secure.url.replace("https:", "http:"))


def test_a_renewed_certificate_is_served_within_a_second(secure: Supervisor, files: Files) -> None:
    before = serial(secure, files)
    files.issue()
    eventually(lambda: serial(secure, files), lambda seen: seen != before, timeout_s=1)
    assert "has changed and is in force" in secure.log


def test_addresses_are_written_down_as_over_plain_http(secure: Supervisor, files: Files) -> None:
    with httpx.Client(base_url=secure.url, verify=files.client()) as client:
        client.post("/tokenize", json={"content": "x"}, headers={"x-request-id": "over-tls"})

    def lines() -> list[dict[str, object]]:
        return [json.loads(line) for line in secure.layout.audit_log.read_text().splitlines() if "over-tls" in line]

    (line,) = eventually(lines, bool, timeout_s=10)
    assert line["address"] == "127.0.0.1"


def test_a_certificate_without_its_key_does_not_start(engine_build: Path, files: Files, short_dir: Path) -> None:
    assert engine_build.exists()
    wrong = ("--tls-cert", str(files.certificate), "--tls-key", str(files.certificate))
    with Supervisor(short_dir / "s", *wrong) as supervisor:
        assert supervisor.process.wait(30) == ConfigError.exit_code
        assert "cannot use the certificate" in supervisor.log
        assert "Traceback" not in supervisor.log
