"""What is tested, asked over HTTP: one streamed chat at a time, from which its figures are read."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from runner_supervisor.errors import RunnerError
from runner_supervisor.loadtest.figures import Answer, Failure, Outcome
from runner_supervisor.loadtest.stream import Reading, failure

CONNECT_S = 10.0
ANSWER_S = 600.0
"""How long an answer may take, in seconds."""

ADVICE = {
    401: "give a key in API_KEY (or with --key); `runner-supervisor keys create --name bench` makes one",
    403: "the key has to be one of the scope inference, for this model",
    404: "is it the address of an OpenAI-compatible server?",
}


class Endpoint:
    """An OpenAI-compatible server."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def model(self) -> str:
        """The name of the first model that it serves.

        Raises:
            RunnerError: it does not say.
        """
        url = f"{self._client.base_url}"
        try:
            response = await self._client.get("/v1/models", timeout=CONNECT_S)
        except httpx.HTTPError as error:
            untrusted = "CERTIFICATE_VERIFY_FAILED" in str(error)
            advice = "name the certificate to trust with --cacert" if untrusted else "does it run there?"
            raise RunnerError(f"cannot reach {url}: {error or type(error).__name__}; {advice}") from None
        if response.is_error:
            raise _refused(url, response)
        try:
            return str(response.json()["data"][0]["id"])
        except (ValueError, KeyError, TypeError, IndexError):
            raise RunnerError(f"{url}v1/models names no model; {ADVICE[404]}") from None

    async def must_chat(self, model: str, prompt: str, *, max_tokens: int) -> Answer:
        """As `chat`.

        Raises:
            RunnerError: there is no whole answer.
        """
        outcome = await self.chat(model, prompt, max_tokens=max_tokens)
        if isinstance(outcome, Failure):
            raise RunnerError(f"the first request failed ({outcome.cause}): {outcome.message}")
        return outcome

    async def chat(self, model: str, prompt: str, *, max_tokens: int) -> Outcome:
        """Ask for one answer of so many tokens, and read it."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        reading = Reading(sent_s=time.perf_counter())
        try:
            async with (
                asyncio.timeout(ANSWER_S),
                self._client.stream("POST", "/v1/chat/completions", json=body) as response,
            ):
                if response.is_error:
                    await response.aread()
                    return _failure(response)
                async for piece in response.aiter_bytes():
                    reading.feed(piece, now_s=time.perf_counter())
        except (TimeoutError, httpx.TimeoutException):
            return Failure("timeout", f"no whole answer within {ANSWER_S:g} s")
        except httpx.ConnectError as error:
            return Failure("no connection", str(error))
        except httpx.HTTPError as error:
            return Failure("broken connection", str(error) or type(error).__name__)
        return reading.outcome(now_s=time.perf_counter())


@asynccontextmanager
async def connected(url: str, *, key: str | None, cacert: Path | None) -> AsyncIterator[Endpoint]:
    """The endpoint at a URL (without /v1), with as many connections as are wanted.

    Args:
        url: its address.
        key: sent as bearer token.
        cacert: PEM file to know its certificate by; None: what the system trusts.

    Raises:
        RunnerError: the certificate cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=cacert)
    except OSError as error:
        raise RunnerError(f"cannot use the certificate {cacert}: {error.strerror or error}") from None
    async with httpx.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {key}"} if key else {},
        limits=httpx.Limits(max_connections=None),
        timeout=httpx.Timeout(ANSWER_S, connect=CONNECT_S),
        verify=context,
        trust_env=False,
    ) as client:
        yield Endpoint(client)


def _refused(url: str, response: httpx.Response) -> RunnerError:
    advice = ADVICE.get(response.status_code, "see its log")
    return RunnerError(f"{url} answers {response.status_code}: {_failure(response).message.rstrip('.')}; {advice}")


def _failure(response: httpx.Response) -> Failure:
    try:
        body = response.json()
    except ValueError:
        body = response.text
    return failure(body, status=response.status_code)
