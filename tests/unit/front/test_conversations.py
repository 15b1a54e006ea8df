"""Ids of conversations on their way to the engine and back."""

from __future__ import annotations

import orjson
import pytest

from runner_supervisor.front.conversations import private_question, private_target, public_answer
from runner_supervisor.front.message import Head, path_of
from runner_supervisor.front.routes import route_of


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (b"/v1/stream?conv_id=c", b"/v1/stream?conv_id=a.c"),
        (b"/v1/stream?from=3&conv_id=c%20d", b"/v1/stream?from=3&conv_id=a.c+d"),
        (b"/v1/stream?conv_id=c&conv_id=b.c", b"/v1/stream?conv_id=a.c&conv_id=a.b.c"),
        (b"/v1/stream?conv%5fid=c", b"/v1/stream?conv_id=a.c"),
        (b"/v1/stream?conv_id=c%3A%3Am", b"/v1/stream?conv_id=a.c%3A%3Am"),
        (b"/v1/stream?conv_id=%C3%A4", b"/v1/stream?conv_id=a.%C3%A4"),
        (b"/v1/stream?conv_id=", b"/v1/stream?conv_id="),
        (b"/v1/stream?", b"/v1/stream?"),
    ],
)
def test_every_id_in_a_query_is_made_the_keys_own(target: bytes, told: bytes) -> None:
    assert private_target("a", target) == told


def test_a_head_is_private_only_where_there_are_keys() -> None:
    headers = [(b"x-conversation-id", b"c")]
    kept = Head(b"GET", b"/v1/stream?conv_id=c", headers, http_1_0=False, keep_alive=True, owner=None)
    assert kept.encode([], 0) == [b"GET /v1/stream?conv_id=c HTTP/1.1\r\nx-conversation-id: c\r\n\r\n"]
    owned = Head(b"GET", b"/v1/%u0073tream?conv_id=c", headers, http_1_0=False, keep_alive=True, owner="a")
    assert owned.encode([], 0) == [b"GET /v1/%u0073tream?conv_id=a.c HTTP/1.1\r\nx-conversation-id: a.c\r\n\r\n"]


def test_a_form_in_a_body_cannot_name_another_conversation() -> None:
    form = b"conv_id=b.c"
    head = Head(b"GET", b"/v1/stream?conv_id=c", [], http_1_0=False, keep_alive=True, owner="a")
    assert head.encode([form], len(form)) == [b"GET /v1/stream?conv_id=a.c HTTP/1.1\r\n\r\n"]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (b'{"conversation_ids": ["c", "b.c"]}', ["a.c", "a.b.c"]),
        (b'{"conversation_ids": ["c"], "conversation_ids": ["d"]}', ["a.d"]),
        (b'{"conversation_ids": ["", 7, null]}', [""]),
        (b'{"conversation_ids": ["c", "c"]}', ["a.c"]),
        (b'{"conversation_ids": "c"}', []),
        (b"{}", []),
        (b"[]", []),
        (b"{", []),
    ],
)
def test_every_id_asked_for_is_made_the_keys_own(asked: bytes, told: list[str]) -> None:
    assert orjson.loads(private_question("a", asked)) == {"conversation_ids": told}


def test_an_answer_names_ones_own_conversations_as_one_knows_them() -> None:
    found = b'[{"conversation_id":"a.c::m","is_done":true},{"conversation_id":"b.c","is_done":true}]'
    assert public_answer("a", found) == b'[{"conversation_id":"c::m","is_done":true}]'
    assert public_answer("a", b"") == b"[]"


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/v1/completions?x=1", "/v1/completions"),
        (b"/v1/%63ompletions", "/v1/completions"),
        (b"/v1/completion%u0073", "/v1/completions"),
        (b"/v1/%2563ompletions", "/v1/%63ompletions"),
        (b"/v1/%u73ompletions%", "/v1/%u73ompletions%"),
        (b"/v1/completions%uD800", "/v1/completions"),
        (b"/%zz/%u00e4", "/%zz/\u00c3\u00a4"),
    ],
)
def test_a_path_is_read_as_the_engine_reads_it(target: bytes, path: str) -> None:
    assert path_of(target) == path
    assert route_of(path).queued is (path == "/v1/completions")
