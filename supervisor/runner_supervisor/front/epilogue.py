"""How a stream ends that its engine broke off or an operator cancelled: with an error event that its clients know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import orjson

from runner_supervisor.front.answers import AnswerHead
from runner_supervisor.front.replies import ENGINE_GONE, STOPPED

EVENTS_END: Final = b"\n\n\r\n"
"""llama-server writes whole events, and each time a chunk of their own (tools/server/server-context.cpp)."""


def error_event(path: str, message: str, code: str) -> bytes:
    """The event that says what went wrong, for the clients of this route."""
    return SHAPES.get(path, _openai)(message, code)


def _openai(message: str, code: str) -> bytes:
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    return b"data: %b\n\n" % orjson.dumps({"error": error})


def _anthropic(message: str, _code: str) -> bytes:
    return _named({"type": "error", "error": {"type": "api_error", "message": message}})


def _responses(message: str, code: str) -> bytes:
    return _named({"type": "error", "code": code, "message": message, "param": None})


def _named(data: dict[str, object]) -> bytes:
    return b"event: error\ndata: %b\n\n" % orjson.dumps(data)


SHAPES: Final[dict[str, Callable[[str, str], bytes]]] = {
    "/v1/messages": _anthropic,
    "/responses": _responses,
    "/v1/responses": _responses,
}


def may_end(head: AnswerHead, last: Sequence[bytes], *, http_1_0: bool) -> bool:
    """Whether an event may follow what has been sent.

    Args:
        head: the answer's.
        last: the pieces of its body that came last; none: there were none.
        http_1_0: the client gets it without chunked framing, where an event can always be begun.
    """
    return head.streamed and head.chunked and (http_1_0 or not last or last[-1].endswith(EVENTS_END))


def notice(path: str, ended: str | None, *, http_1_0: bool) -> bytes:
    """What became of it, as the last bytes of an answer. For HTTP/1.0 it is kept apart from an event that broke off.

    Args:
        path: the route's.
        ended: how the engine ended; see `Upstream`.
        http_1_0: the client gets the answer without chunked framing.
    """
    how = f"ended ({ended})" if ended else "broke off" if ended is None else "was replaced or stopped"
    message = f"The model server {how} before the answer was complete."
    return _framed(error_event(path, message, ENGINE_GONE.code), http_1_0=http_1_0)


def cancellation(path: str, *, http_1_0: bool) -> bytes:
    """That an operator ended it, in the same way as `notice`."""
    return _framed(error_event(path, STOPPED.message, STOPPED.code), http_1_0=http_1_0)


def _framed(event: bytes, *, http_1_0: bool) -> bytes:
    return b"\n\n" + event if http_1_0 else b"%x\r\n%b\r\n0\r\n\r\n" % (len(event), event)
