"""Pins the parts of uvicorn that front.protocol relies on: an upgrade that changes one fails here, by name."""

from __future__ import annotations

import inspect
import re

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server, ServerState

SIGNATURES = {
    "__init__": ["self", "config", "server_state", "app_state", "_loop"],
    "connection_made": ["self", "transport"],
    "connection_lost": ["self", "exc"],
    "data_received": ["self", "data"],
    "on_message_begin": ["self"],
    "on_header": ["self", "name", "value"],
    "on_headers_complete": ["self"],
    "on_body": ["self", "body"],
    "on_message_complete": ["self"],
    "on_response_complete": ["self"],
    "_start_asgi_task": ["self", "cycle", "app"],
    "send_400_response": ["self", "msg"],
    "pause_writing": ["self"],
    "resume_writing": ["self"],
    "shutdown": ["self"],
}

CYCLE_ATTRIBUTES = ["response_complete", "disconnected", "message_event", "keep_alive"]
"""What the protocol reads or sets on the cycle at work, and so what a Relay must have."""


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_methods_that_are_overridden_or_called(name: str) -> None:
    assert list(inspect.signature(getattr(HttpToolsProtocol, name)).parameters) == SIGNATURES[name]


def test_what_a_connection_begins_with() -> None:
    """connection_made and on_message_begin are ours; these lines of uvicorn's are what they stand for."""
    made = inspect.getsource(HttpToolsProtocol.connection_made)
    assigned = ["connections.add", "transport =", "flow =", "server =", "client =", "scheme ="]
    assert [
        line for line in made.splitlines() if "self." in line and "logger" not in line and "% self" not in line
    ] == [line for line in made.splitlines() if any(f"self.{each}" in line for each in assigned)]
    begin = inspect.getsource(HttpToolsProtocol.on_message_begin)
    assert re.findall(r"self\.(\w+) =", begin) == ["url", "expect_100_continue", "headers", "scope"]


async def app(scope: object, receive: object, send: object) -> None:
    """Nobody asks it."""


@pytest.mark.anyio
async def test_what_a_connection_has_of_its_own() -> None:
    """`FrontProtocol.another` makes these anew, and lets connections share all else."""
    config = uvicorn.Config(app, lifespan="off", log_config=None)
    state = ServerState()
    one, two = (vars(HttpToolsProtocol(config, state, {})) for _ in range(2))
    shared = {id(config), id(state.connections), id(state.tasks)}
    differing = {name for name in one if one[name] is not two[name] and id(one[name]) not in shared}
    assert differing - {"app_state"} == {"parser", "pipeline"}
    assert inspect.getsource(HttpToolsProtocol.__init__).count("self.parser.") == 1
    assert "self.parser.set_dangerous_leniencies(lenient_data_after_close=True)" in inspect.getsource(
        HttpToolsProtocol.__init__
    )


def test_the_protocols_attributes() -> None:
    source = inspect.getsource(HttpToolsProtocol)
    for use in ("self.pipeline.pop()", "self.pipeline: deque[", "self.flow = FlowControl(", "self.url += url"):
        assert use in source
    assert "self.headers.append((name, value))" in source
    assert "self.cycle is None or self.cycle.response_complete" in source


@pytest.mark.parametrize("name", CYCLE_ATTRIBUTES)
def test_the_cycles_attributes(name: str) -> None:
    assert f"self.{name} = " in inspect.getsource(RequestResponseCycle.__init__)


def test_a_protocol_factory_is_taken_as_it_is() -> None:
    def factory() -> None:
        """Stands in for a protocol class."""

    config = uvicorn.Config("unused:app", http=factory)  # type: ignore[arg-type]
    config.load_app = lambda: None  # type: ignore[method-assign]
    config.load()
    assert config.http_protocol_class is factory


def test_the_server_can_be_kept_from_taking_signals_and_told_to_end() -> None:
    assert "with self.capture_signals():" in inspect.getsource(Server.serve)
    assert "if self.should_exit:" in inspect.getsource(Server.on_tick)
    assert "if counter % 10 == 0:" in inspect.getsource(Server.on_tick)
    assert re.findall(r"await ([\w.]+)\(", inspect.getsource(Server.main_loop)) == [
        "self.on_tick",
        "asyncio.sleep",
        "self.on_tick",
    ]
    assert {"connections", "tasks", "default_headers"} <= set(vars(ServerState()))


def test_what_the_server_is_to_have_when_it_listens() -> None:
    """Listening is ours (`front.server.Server.startup`); this is what the rest of uvicorn's server asks of it."""
    assert "await self.startup(sockets=sockets)" in inspect.getsource(Server._serve)
    assert "for server in self.servers:" in inspect.getsource(Server.shutdown)
    listens = inspect.getsource(Server.startup)
    assert "create_server(create_protocol, sock=sock, ssl=config.ssl, backlog=config.backlog)" in listens
    assert re.findall(r"^ {16}(\w+)=", listens, re.MULTILINE)[:4] == ["config", "server_state", "app_state", "_loop"]
    assert "self.started = True" in listens
