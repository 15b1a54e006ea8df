"""Keys and prompts are written nowhere. Collected last: it looks at what every supervisor of this run left."""

from __future__ import annotations

import httpx
import pytest
from tests.e2e.conftest import Supervisor
from tests.leaks import LEAKS, PROMPTS, Leaks, check_error_body, paths_of_this_machine

MARK = PROMPTS[-1]


def test_errors_name_no_path_of_this_machine(service: Supervisor) -> None:
    paths = paths_of_this_machine(service)

    def check(response: httpx.Response) -> None:
        response.read()
        check_error_body(response, paths)

    with httpx.Client(base_url=service.url, event_hooks={"response": [check]}, timeout=30) as client:
        answers = [
            client.get(f"/{MARK}"),
            client.post("/v1/completions", content=b'{"prompt": "'),
            client.post("/v1/completions", json={"prompt": {"a": MARK}}),
            client.post("/v1/chat/completions", json={"messages": MARK}),
            client.post("/v1/embeddings", json={"input": 7.5}),
            client.post("/slots/0?action=save", json={"filename": "../../x"}),
            client.request("BREW", "/v1/models"),
            client.get("/admin/nothing"),
        ]
    assert [answer.status_code for answer in answers if not answer.is_error] == []


def test_nothing_that_any_supervisor_wrote_has_a_key_or_a_prompt(service: Supervisor) -> None:
    key = f"sk-{MARK}-tried"
    LEAKS.know(key)
    with httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {key}"}, timeout=30) as client:
        assert client.post("/v1/completions", json={"prompt": MARK, "max_tokens": 2}).status_code == 200
        client.post("/v1/completions", json={"prompt": MARK, "temperature": MARK})
        client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": MARK}], "stream": True})
        client.get("/v1/models", params={"api_key": key})
        client.get(f"/{key}")
    LEAKS.search_live()
    names = "\n".join(LEAKS.searched)
    for name in ("stdout", "keys.sqlite", "engine.log", "logs/supervisor.log"):
        assert name in names
    assert not LEAKS.found, "\n".join(LEAKS.found)


@pytest.mark.parametrize("secret", ["rsk_0123456789abcdefghij", "a given key"])
def test_what_is_looked_for_is_found(secret: str) -> None:
    leaks = Leaks()
    leaks.know(secret)
    leaks.search("a file", b"\0" + secret.encode())
    assert len(leaks.found) == 1
