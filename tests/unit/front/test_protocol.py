"""Which requests are FastAPI's, and targets in their forms."""

from __future__ import annotations

import pytest

from runner_supervisor.front.protocol import is_control, is_local, origin_form


@pytest.mark.parametrize(
    "target", [b"/health", b"/health/live", b"/health?x=1", b"/metrics", b"/admin", b"/admin/", b"/admin/a/b"]
)
def test_fastapis_own(target: bytes) -> None:
    assert is_control(target)


@pytest.mark.parametrize(
    "target",
    [b"/", b"/healthz", b"/v1/health", b"/metricsx/y", b"/administrator", b"//admin", b"/x?y=/admin", b"/v1/models"],
)
def test_the_engines(target: bytes) -> None:
    assert not is_control(target)


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


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a?b=c", b"/a?b=c"),
        (b"http://host:1/a?b=c", b"/a?b=c"),
        (b"http://host/admin/stop", b"/admin/stop"),
        (b"http://host", b"/"),
    ],
)
def test_targets_become_paths(target: bytes, path: bytes) -> None:
    assert origin_form(target) == path
