"""Resumable streams are their key's own."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import Supervisor

IDS = {"conversation_ids": ["talk"]}


@pytest.fixture(scope="module")
def guarded(engine_build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """A supervisor with two keys."""
    assert engine_build.exists()
    folder = tmp_path_factory.mktemp("rs")
    environment = os.environ | {"RUNNER_API_KEYS": "first-key,second-key"}
    with Supervisor(folder / "s", environment=environment) as supervisor:
        yield supervisor.wait_ready()


def client(supervisor: Supervisor, key: str) -> httpx.Client:
    headers = {"authorization": f"Bearer {key}"}
    return httpx.Client(base_url=supervisor.url, headers=headers, timeout=30.0, trust_env=False)


def test_a_stream_can_be_read_again_by_its_key_and_by_no_other(guarded: Supervisor) -> None:
    body = {"prompt": "The sea", "max_tokens": 20, "stream": True, "temperature": 0}
    with client(guarded, "first-key") as mine, client(guarded, "second-key") as other:
        said = mine.post("/v1/completions", json=body, headers={"x-conversation-id": "talk"})
        assert said.text.endswith("data: [DONE]\n\n")

        again = mine.get("/v1/stream", params={"conv_id": "talk", "from": 0})
        assert (again.status_code, again.text) == (200, said.text)
        found = mine.post("/v1/streams/lookup", json=IDS).json()
        assert [(each["conversation_id"], each["is_done"]) for each in found] == [("talk", True)]

        assert other.get("/v1/stream", params={"conv_id": "talk"}).status_code == 404
        assert other.post("/v1/streams/lookup", json=IDS).json() == []
        with guarded.engine() as engine:
            told = engine.get("/v1/stream", params={"conv_id": "talk"})
        assert told.status_code == 404

        assert other.delete("/v1/stream", params={"conv_id": "talk"}).status_code == 204
        assert mine.get("/v1/stream", params={"conv_id": "talk"}).status_code == 200
        assert mine.delete("/v1/stream", params={"conv_id": "talk"}).status_code == 204
        assert mine.get("/v1/stream", params={"conv_id": "talk"}).status_code == 404


SPELLINGS = [
    "/v1/stream",
    "/v1/%u0073tream",
    "/v1/%73tream",
    "/v1/str%uD800eam",
    "/v1/stream#",
    "http://localhost/v1/stream",
]


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_and_no_form_leads_to_anothers_stream(guarded: Supervisor, spelling: str, method: str) -> None:
    body = {"prompt": "The sea", "max_tokens": 2, "stream": True}
    known_to_the_engine = hashlib.sha256(b"first-key").hexdigest()[:12] + ".mine"
    with client(guarded, "first-key") as mine, client(guarded, "second-key") as other:
        mine.post("/v1/completions", json=body, headers={"x-conversation-id": "mine"})
        with guarded.engine() as engine:
            assert engine.get("/v1/stream", params={"conv_id": known_to_the_engine}).status_code == 200
        for conversation in ("mine", known_to_the_engine):
            for form in ({}, {"conv_id": conversation}):
                request = other.build_request(method, "/", data=form)
                request.extensions["target"] = f"{spelling}?conv_id={conversation}".encode()
                assert other.send(request).status_code in {204, 400, 404}
        assert mine.get("/v1/stream", params={"conv_id": "mine"}).status_code == 200


def test_a_lookup_answers_whatever_is_asked(guarded: Supervisor) -> None:
    with client(guarded, "first-key") as mine:
        assert mine.options("/v1/streams/lookup").status_code == 200
        assert mine.post("/v1/streams/lookup", json={}).json() == []
        assert mine.post("/v1/streams/lookup", content=b"{" + b" " * (2 << 20)).status_code == 413
