"""llama-server's command line and environment."""

from __future__ import annotations

from pathlib import Path

from runner_supervisor.engine.command import engine_argv, engine_environment


def test_model_and_address_are_always_named_and_the_users_flags_come_last() -> None:
    argv = engine_argv(
        binary=Path("/bin/llama-server"), model=Path("/m/a.gguf"), socket=Path("/run/e.sock"), extra=("-c", "1")
    )
    assert " ".join(argv) == (
        "/bin/llama-server --model /m/a.gguf --alias a --host /run/e.sock --port 8080 --metrics --log-colors off -c 1"
    )


def test_an_alias_of_the_users_own_is_the_only_one() -> None:
    argv = engine_argv(binary=Path("b"), model=Path("/m/a.gguf"), socket=Path("s"), extra=("--alias", "mine"))
    assert argv.count("--alias") == 1


def test_only_what_a_compute_backend_needs_is_inherited() -> None:
    environment = engine_environment(
        {
            "PATH": "/bin",
            "CUDA_VISIBLE_DEVICES": "1",
            "LD_LIBRARY_PATH": "/lib",
            "LC_ALL": "C",
            "LLAMA_ARG_PORT": "1",
            "LLAMA_API_KEY": "secret",
            "RUNNER_API_KEYS": "secret",
            "CLOUD_SECRET": "secret",
        }
    )
    assert environment == {
        "PATH": "/bin",
        "CUDA_VISIBLE_DEVICES": "1",
        "LD_LIBRARY_PATH": "/lib",
        "LC_ALL": "C",
        "GGML_NO_BACKTRACE": "1",
    }
