"""TLS on the front's address: how it is spoken, and certificates that are renewed while it serves."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tests.component.front_rig import CHUNKED, Asked, Rig, request, rig, with_id
from tests.component.front_rig import OK as HI
from tests.component.tls_rig import Files, issue

from runner_supervisor.errors import ConfigError
from runner_supervisor.front import server
from runner_supervisor.front.tls import Certificate

pytestmark = pytest.mark.anyio

PIECE = bytes(64 * 1024)
MOST_UNREAD_BYTES = 16 * 1024 * 1024
STUCK_S = 0.5


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return issue(tmp_path)


@asynccontextmanager
async def connect(
    here: Rig, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", here.port, ssl=context, server_hostname="127.0.0.1")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


def shown(writer: asyncio.StreamWriter) -> bytes | None:
    """The certificate that a connection was made with."""
    found: ssl.SSLObject = writer.get_extra_info("ssl_object")
    return found.getpeercert(binary_form=True)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_requests_come_over_tls(short_dir: Path, files: Files, version: ssl.TLSVersion) -> None:
    context = files.client()
    context.minimum_version = context.maximum_version = version
    async with rig(short_dir, certificate=Certificate(files.certificate, files.key)) as here:
        assert here.front.address == f"https://127.0.0.1:{here.port}"
        async with connect(here, context) as (reader, writer):
            writer.write(request())
            assert await reader.read() == with_id(HI).replace(b"Keep-Alive: timeout=5, max=100\r\n", b"").replace(
                b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"
            )


async def test_tls_before_1_2_is_refused(short_dir: Path, files: Files) -> None:
    certificate = Certificate(files.certificate, files.key)
    assert certificate.context.minimum_version == ssl.TLSVersion.TLSv1_2
    context = files.client()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    async with rig(short_dir, certificate=certificate) as here:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", here.port, ssl=context, server_hostname="127.0.0.1")


async def test_plain_http_is_refused_and_not_worth_a_line_in_the_log(
    short_dir: Path, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    async with rig(short_dir, certificate=Certificate(files.certificate, files.key)) as here:
        async with here.connect() as (reader, writer):
            writer.write(request())
            answer = await reader.read()
        assert b"HTTP" not in answer
        assert not here.engine.asked
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_who_does_not_shake_hands_is_dropped(
    short_dir: Path, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_S", 0.2)
    certificate = Certificate(files.certificate, files.key)
    async with rig(short_dir, certificate=certificate) as here, here.connect() as (reader, _):
        assert await reader.read() == b""


async def test_the_control_socket_stays_plain(short_dir: Path, files: Files) -> None:
    async with rig(short_dir, certificate=Certificate(files.certificate, files.key)) as here:
        reader, writer = await asyncio.open_unix_connection(here.control)
        writer.write(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_renewed_certificate_is_for_new_connections(short_dir: Path, files: Files) -> None:
    certificate = Certificate(files.certificate, files.key)
    async with rig(short_dir, certificate=certificate) as here, connect(here, files.client()) as (reader, writer):
        assert certificate.refresh() is False
        files.issue()
        assert certificate.refresh() is True
        async with connect(here, files.client()) as (_, newer):
            assert shown(newer) != shown(writer)
        writer.write(request())
        assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


async def test_files_that_cannot_be_used_leave_the_certificate_in_force(
    short_dir: Path, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    certificate = Certificate(files.certificate, files.key)
    async with rig(short_dir, certificate=certificate) as here:
        key = files.key.read_bytes()
        files.issue()
        files.key.write_bytes(key)  # not this one's
        assert certificate.refresh() is False
        assert certificate.refresh() is False
        files.key.unlink()
        assert certificate.refresh() is False
        async with connect(here, files.client()) as (_, writer):
            old = shown(writer)
        files.issue()
        assert certificate.refresh() is True
        async with connect(here, files.client()) as (_, writer):
            assert shown(writer) != old
    assert [record.levelname for record in caplog.records if record.name.endswith("tls")].count("ERROR") == 2


async def test_a_client_that_does_not_read_stops_the_engine(short_dir: Path, files: Files) -> None:
    sent = 0
    blocked = asyncio.Event()

    async def pour(asked: Asked) -> None:
        nonlocal sent
        asked.writer.write(CHUNKED)
        while True:
            asked.writer.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))
            try:
                await asyncio.wait_for(asked.writer.drain(), STUCK_S)
            except TimeoutError:
                blocked.set()
                await asked.writer.drain()
            sent += len(PIECE)

    certificate = Certificate(files.certificate, files.key)
    async with rig(short_dir, pour, certificate=certificate) as here, connect(here, files.client()) as client:
        reader, writer = client
        writer.transport.pause_reading()
        writer.write(request(close=False))
        await blocked.wait()
        assert 0 < sent < MOST_UNREAD_BYTES
        writer.transport.resume_reading()
        await reader.readexactly(2 * MOST_UNREAD_BYTES)


def test_what_is_no_certificate_and_key_is_refused(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(files.authority.issue_cert("127.0.0.1").private_key_pem.bytes())
    for key, why in ((other, "key values mismatch"), (files.certificate, "no certificate"), (tmp_path, "directory")):
        with pytest.raises(ConfigError, match=f"(?i){why}.*belong together"):
            Certificate(files.certificate, key)
    with pytest.raises(ConfigError, match="No such file"):
        Certificate(tmp_path / "none.pem", files.key)


def test_a_key_with_a_password_is_refused_without_asking(files: Files) -> None:
    key = serialization.load_pem_private_key(files.key.read_bytes(), None)
    files.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ConfigError, match="needs a password"):
        Certificate(files.certificate, files.key)
