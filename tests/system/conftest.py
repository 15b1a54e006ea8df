"""What the tests with a real Docker engine share: the engine, and the image for processors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.system.docker_rig import CPU_IMAGE, Docker, engine


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    """A Docker engine."""
    with engine() as running:
        yield running


@pytest.fixture(scope="session")
def image(docker: Docker) -> str:
    """The image for processors, built as README.md says."""
    docker.build("docker/Dockerfile.cpu", CPU_IMAGE)
    return CPU_IMAGE
