"""Who is let in, and to what."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from runner_supervisor.core.access import Scope
from runner_supervisor.front.gate import ANYONE, Gate, Judgement, Request, is_local
from runner_supervisor.front.routes import CONTROL, route_of
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.settings import Settings

LOCAL = {b"host": b"localhost:8080"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeyStore]:
    with closing(KeyStore(tmp_path / "keys.sqlite")) as keys:
        yield keys


@pytest.fixture
def given(tmp_path: Path) -> Iterator[KeyStore]:
    with closing(KeyStore(tmp_path / "keys.sqlite", given=["secret"])) as keys:
        yield keys


def judge(gate: Gate, path: str = "/v1/models", *, method: bytes = b"GET", **headers: bytes) -> Judgement:
    route = CONTROL.get(path) or route_of(path)
    shown = {name.replace("_", "-").encode(): value for name, value in headers.items()}
    return gate.judge(Request(method, route, path, LOCAL | shown, None))


def code(judgement: Judgement) -> str:
    return judgement.refusal.code if judgement.refusal else "in"


@pytest.mark.parametrize(
    ("headers", "admitted"),
    [
        ({"authorization": b"Bearer secret"}, True),
        ({"authorization": b"bearer  secret "}, True),
        ({"authorization": b"secret"}, True),
        ({"x_api_key": b"secret"}, True),
        ({}, False),
        ({"authorization": b""}, False),
        ({"authorization": b"Bearer "}, False),
        ({"authorization": b"Bearer wrong", "x_api_key": b"secret"}, False),
        ({"authorization": b"Basic secret"}, False),
        ({"authorization": b"Bearer secret, Bearer wrong"}, False),
        ({"x_api_key": b"SECRET"}, False),
    ],
)
def test_with_keys(given: KeyStore, headers: dict[str, bytes], admitted: bool) -> None:
    gate = Gate(given, Settings())
    assert code(judge(gate, **headers)) == ("in" if admitted else "invalid_api_key")


def test_only_a_key_that_was_shown_is_a_guess(given: KeyStore) -> None:
    gate = Gate(given, Settings())
    assert judge(gate, authorization=b"Bearer wrong").guess
    assert not judge(gate).guess
    assert not judge(gate, authorization=b"Bearer secret").guess


@pytest.mark.parametrize(
    ("settings", "open_"),
    [
        (Settings(), True),
        (Settings(host="::1"), True),
        (Settings(host="0.0.0.0"), False),
        (Settings(host="0.0.0.0", insecure_no_auth=True), True),
    ],
)
def test_without_keys_an_address_is_open_on_loopback_or_when_told_to_be(
    store: KeyStore, settings: Settings, open_: bool
) -> None:
    gate = Gate(store, settings)
    assert gate.open is open_
    assert (judge(gate).principal is ANYONE) is open_


def test_an_open_address_closes_with_the_first_key_and_stays_closed_without_any(store: KeyStore) -> None:
    gate = Gate(store, Settings())
    store.create("first", scopes=frozenset({Scope.INFERENCE}))
    assert code(judge(gate)) == "invalid_api_key"
    store.revoke("first")
    assert code(judge(gate)) == "invalid_api_key"


@pytest.mark.parametrize(
    ("path", "method", "found"),
    [
        ("/v1/models", b"GET", "in"),
        ("/metrics", b"GET", "in"),
        ("/slots", b"GET", "in"),
        ("/props", b"GET", "in"),
        ("/props", b"POST", "wrong_scope"),
        ("/slots/0", b"POST", "wrong_scope"),
        ("/admin", b"GET", "wrong_scope"),
        ("/tools", b"GET", "wrong_scope"),
        ("/no/such", b"GET", "not_found"),
    ],
)
def test_an_open_address_is_open_for_inference_and_metrics(
    store: KeyStore, path: str, method: bytes, found: str
) -> None:
    assert code(judge(Gate(store, Settings()), path, method=method)) == found


@pytest.mark.parametrize(
    ("path", "found"), [("/props", "in"), ("/slots/3", "in"), ("/mine", "in"), ("/tools", "wrong_scope")]
)
def test_paths_can_be_opened_by_name(store: KeyStore, path: str, found: str) -> None:
    gate = Gate(store, Settings(open_paths=("/props", "/slots", "/mine")))
    assert code(judge(gate, path, method=b"POST")) == found


def test_a_key_that_was_made_just_now_is_no_guess(store: KeyStore, tmp_path: Path) -> None:
    gate = Gate(store, Settings())
    store.create("first", scopes=[Scope.INFERENCE])
    with closing(KeyStore(tmp_path / "keys.sqlite")) as elsewhere:
        made = elsewhere.create("second", scopes=[Scope.INFERENCE]).secret.encode()
    assert code(judge(gate, authorization=b"Bearer " + made)) == "in"
    assert judge(gate, authorization=b"Bearer wrong").guess


def test_a_key_for_other_models_is_of_no_use_here(store: KeyStore) -> None:
    secret = store.create("ci", scopes=frozenset({Scope.INFERENCE}), models=("qwen*", "demo")).secret.encode()
    gate = Gate(store, Settings())
    for model, found in (("qwen3-8b", "in"), ("demo", "in"), ("llama", "wrong_model"), ("Demo", "wrong_model")):
        gate.model = model
        assert code(judge(gate, x_api_key=secret)) == found


def test_the_version_changes_with_the_model_and_the_settings(store: KeyStore) -> None:
    gate = Gate(store, Settings())
    seen = {gate.version}
    gate.model = "a"
    seen.add(gate.version)
    gate.model = "a"
    seen.add(gate.version)
    gate.apply(Settings())
    seen.add(gate.version)
    assert len(seen) == 3


def test_an_open_address_lets_no_foreign_page_in_unless_it_is_named(store: KeyStore) -> None:
    gate = Gate(store, Settings(cors_origins=("https://app.example",)))
    assert code(judge(gate, origin=b"https://evil.example")) == "foreign_origin"
    assert code(judge(gate, origin=b"https://app.example")) == "in"
    assert code(judge(gate, origin=b"http://localhost:3000")) == "in"


def test_a_loopback_address_answers_to_no_foreign_host_but_says_its_health(store: KeyStore) -> None:
    gate = Gate(store, Settings())
    assert code(judge(gate, host=b"evil.example")) == "foreign_host"
    assert code(judge(gate, "/health", host=b"evil.example")) == "in"


@pytest.mark.parametrize(
    ("origin", "local"),
    [
        (b"http://localhost:3000", True),
        (b"https://127.0.0.1", True),
        (b"http://[::1]:8080", True),
        (b"https://evil.example", False),
        (b"http://localhost.evil.example", False),
        (b"null", False),
        (b"", False),
    ],
)
def test_origins_of_this_machine(origin: bytes, local: bool) -> None:
    assert is_local(origin) is local
