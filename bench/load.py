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


def request(query: str = "", body: bytes = b'{"model":"demo","prompt":"x"}') -> bytes:
    """One POST to /v1/completions with the key."""
    head = (
        f"POST /v1/completions{query} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def connect(port: int) -> socket.socket:
    """A connection to a target on this machine."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


@dataclass(slots=True)
class Result:
    """What one run saw: times in seconds, per request or per stream."""

    times_s: list[float] = field(default_factory=list)
    chunks: int = 0
    elapsed_s: float = 0.0


def small(port: int, *, connections: int, duration_s: float, body: bytes | None = None) -> Result:
    """Requests with short answers, one after the other on each connection, for `duration_s` seconds."""
    result = Result()
    ask = request(body=body) if body is not None else request()
    epoll = select.epoll()
    peers = {}
    for _ in range(connections):
        peer = connect(port)
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
    while now < end:
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


def streams(port: int, *, count: int, chunks: int, delay_ms: int, rounds: int = 1, spread_s: float = 0.0) -> Result:
    """Streams side by side, each begun anew `rounds` times. Times are to the first event.

    Args:
        port: the target.
        count: how many at once.
        chunks: events in each.
        delay_ms: between events; 0 is flat out.
        rounds: how often each is begun.
        spread_s: the first beginnings are spread over this time.
    """
    result = Result()
    ask = request(f"?chunks={chunks}&delay_ms={delay_ms}&")
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
            peer = connect(port)
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
            tails[number] = (tails[number] + data)[-len(END) :]
            if tails[number] == END:
                left[number] -= 1
                tails[number] = b""
                if left[number]:
                    sent[number] = time.perf_counter()
                    peers[number].sendall(ask)
                else:
                    epoll.unregister(number)
                    peers.pop(number).close()
    result.elapsed_s = time.perf_counter() - began
    epoll.close()
    return result


def hold(port: int, *, count: int) -> list[socket.socket]:
    """Open streams that send an event a second, and give their connections back."""
    ask = request("?chunks=60&delay_ms=1000&")
    peers = [connect(port) for _ in range(count)]
    for peer in peers:
        peer.sendall(ask)
    for peer in peers:
        peer.recv(65536)
    return peers
