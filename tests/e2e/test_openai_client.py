"""The `openai` client against the front; every answer is compared with llama-server's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from tests.e2e.conftest import Supervisor

MESSAGES: list[Any] = [{"role": "user", "content": "Tell me about the sea."}]
LENGTH = 64
ON: Any = {"ignore_eos": True}
"""The demo model ends its answer when it has said what it knows; here it is to go on."""


@pytest.fixture
def client(service: Supervisor) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="unused", max_retries=0) as client:
        yield client


def direct(service: Supervisor, path: str, **body: Any) -> Any:
    with service.engine() as engine:
        response = engine.post(path, json=body)
    response.raise_for_status()
    return response.json()


def test_chat_answers_with_the_same_text_as_the_engine(client: openai.OpenAI, service: Supervisor) -> None:
    answer = client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=LENGTH, temperature=0, extra_body=ON
    )
    own = direct(service, "/v1/chat/completions", messages=MESSAGES, max_tokens=LENGTH, temperature=0, **ON)
    assert answer.choices[0].message.content
    assert answer.choices[0].message.content == own["choices"][0]["message"]["content"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == LENGTH


def test_streamed_chat_adds_up_to_the_engines_text(client: openai.OpenAI, service: Supervisor) -> None:
    pieces = []
    with client.chat.completions.create(
        model="demo", messages=MESSAGES, max_tokens=LENGTH, temperature=0, stream=True, extra_body=ON
    ) as stream:
        pieces += [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    own = direct(service, "/v1/chat/completions", messages=MESSAGES, max_tokens=LENGTH, temperature=0, **ON)
    assert "".join(pieces) == own["choices"][0]["message"]["content"]
    assert len([piece for piece in pieces if piece]) == LENGTH


def test_completion_answers_with_the_same_text_as_the_engine(client: openai.OpenAI, service: Supervisor) -> None:
    answer = client.completions.create(model="demo", prompt="Once upon a time", max_tokens=LENGTH, temperature=0)
    own = direct(service, "/v1/completions", prompt="Once upon a time", max_tokens=LENGTH, temperature=0)
    assert answer.choices[0].text
    assert answer.choices[0].text == own["choices"][0]["text"]


def test_embeddings_are_the_engines(client: openai.OpenAI, service: Supervisor) -> None:
    answer = client.embeddings.create(model="demo", input="the sea", encoding_format="float")
    own = direct(service, "/v1/embeddings", input="the sea")
    assert len(answer.data[0].embedding) == 128
    assert json.dumps(answer.data[0].embedding) == json.dumps(own["data"][0]["embedding"])


def test_models_lists_the_model_by_its_name_and_not_its_path(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["demo"]


def test_error_bodies_come_through_untouched(client: openai.OpenAI, service: Supervisor) -> None:
    too_long = "sea " * 40_000
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="demo", prompt=too_long, max_tokens=1)
    with service.engine() as engine:
        own = engine.post("/v1/completions", json={"prompt": too_long, "max_tokens": 1}).json()
    assert caught.value.body == own["error"]
