"""The load: one thread, epoll, raw sockets, so that it costs little itself."""

from __future__ import annotations

import re
import select
import socket
import time
from collections import deque
from dataclasses import dataclass, field

KEY = "bench-key"
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
END = b"0\r\n\r\n"
DEADLINE_S = 120.0


Address = int | str
"""A TCP port of this machine, or the path of a Unix socket."""


def request(query: str = "", body: bytes = b'{"model":"demo","prompt":"x"}') -> bytes:
    """One POST to /v1/completions with the key."""
    head = (
        f"POST /v1/completions{query} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def stream_request(*, chunks: int, delay_ms: int) -> bytes:
    """A POST that the fake engine answers with a stream. `delay_ms`: between events; 0 is flat out."""
    return request(f"?chunks={chunks}&delay_ms={delay_ms}&")


def connect(address: Address) -> socket.socket:
    """A connection to a target on this machine."""
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(10)
        connection.connect(address)
        return connection
    connection = socket.create_connection(("127.0.0.1", address), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@dataclass(slots=True)
class Result:
    """What one run saw: times in seconds, per request or per stream."""

    times_s: list[float] = field(default_factory=list)
    chunks: int = 0
    elapsed_s: float = 0.0


def small(address: Address, *, connections: int, duration_s: float, body: bytes | None = None) -> Result:
    """Requests with short answers, one after the other on each connection, for `duration_s` seconds; one at least."""
    result = Result()
    ask = request(body=body) if body is not None else request()
    epoll = select.epoll()
    peers = {}
    for _ in range(connections):
        peer = connect(address)
        epoll.register(peer.fileno(), select.EPOLLIN)
        peers[peer.fileno()] = peer
    sent: dict[int, float] = {}
    got: dict[int, int] = dict.fromkeys(peers, 0)
    whole = 0
    began = time.perf_counter()
    for number, peer in peers.items():
        sent[number] = time.perf_counter()
        peer.sendall(ask)
    end = began + duration_s
    now = began
    while now < end or not result.times_s:
        if now > end + DEADLINE_S:
            raise TimeoutError("no answer came in time")
        for number, _ in epoll.poll(1.0):
            peer = peers[number]
            data = peer.recv(65536)
            if not data:
                raise ConnectionError("the target closed a connection")
            if not whole:
                whole = _whole(data)
            got[number] += len(data)
            if got[number] >= whole:
                now = time.perf_counter()
                result.times_s.append(now - sent[number])
                got[number] = 0
                sent[number] = now
                peer.sendall(ask)
        now = time.perf_counter()
    result.elapsed_s = now - began
    for peer in peers.values():
        peer.close()
    epoll.close()
    return result


def _whole(data: bytes) -> int:
    """How many bytes an answer has, from its head; every answer of a run is alike."""
    if not data.startswith(b"HTTP/1.1 200"):
        raise ConnectionError(f"unexpected answer: {data[:200]!r}")
    length = LENGTH.search(data)
    if length is None:
        raise ConnectionError("the answer has no length")
    return data.index(b"\r\n\r\n") + 4 + int(length[1])


def streams(
    address: Address, ask: bytes, *, count: int, rounds: int = 1, spread_s: float = 0.0, fresh: bool = False
) -> Result:
    """Streams side by side, each begun anew `rounds` times. Times are to the first event.

    Args:
        address: the target.
        ask: the request, whose answer comes in chunks.
        count: how many at once.
        rounds: how often each is begun.
        spread_s: the first beginnings are spread over this time.
        fresh: each on a connection of its own, as llama-server closes some after a stream.
    """
    result = Result()
    epoll = select.epoll()
    began = time.perf_counter()
    waiting = deque((began + spread_s * number / count, rounds) for number in range(count))
    peers: dict[int, socket.socket] = {}
    sent: dict[int, float] = {}
    left: dict[int, int] = {}
    tails: dict[int, bytes] = {}
    while waiting or peers:
        now = time.perf_counter()
        if now - began > DEADLINE_S:
            raise TimeoutError("the streams did not end in time")
        while waiting and waiting[0][0] <= now:
            _, rounds_left = waiting.popleft()
            peer = connect(address)
            number = peer.fileno()
            epoll.register(number, select.EPOLLIN)
            peers[number], left[number], tails[number] = peer, rounds_left, b""
            sent[number] = time.perf_counter()
            peer.sendall(ask)
        for number, _ in epoll.poll(0.005 if waiting else 1.0):
            data = peers[number].recv(262144)
            if not data:
                raise ConnectionError("a stream was cut off")
            chunked = data.count(b"data: ")
            if chunked and number in sent:
                result.times_s.append(time.perf_counter() - sent.pop(number))
            result.chunks += chunked
            if number in sent:  # a head alone, which may look like an end
                continue
            tails[number] = (tails[number] + data)[-len(END) :]
            if tails[number] != END:
                continue
            left[number] -= 1
            tails[number] = b""
            if left[number] and not fresh:
                sent[number] = time.perf_counter()
                peers[number].sendall(ask)
                continue
            epoll.unregister(number)
            peers.pop(number).close()
            if left[number]:
                waiting.appendleft((0.0, left[number]))
    result.elapsed_s = time.perf_counter() - began
    epoll.close()
    return result


def hold(address: Address, *, count: int) -> list[socket.socket]:
    """Open streams that send an event a second, and give their connections back."""
    ask = stream_request(chunks=60, delay_ms=1000)
    peers = [connect(address) for _ in range(count)]
    for peer in peers:
        peer.settimeout(DEADLINE_S)
    for peer in peers:
        peer.sendall(ask)
    for peer in peers:
        peer.recv(65536)
    return peers
