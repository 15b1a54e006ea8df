"""llama-server's own flags, as given after `--`: handed through, but for those the supervisor decides. Pure.

What people write for llama-server works here too: its address, keys and model become the front's settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

TAKEN_OVER: dict[str, str] = {
    "--host": "host",
    "--port": "port",
    "-m": "model",
    "--model": "model",
    "--api-key": "api_keys",
    "--api-key-file": "api_keys_file",
    "--ssl-key-file": "tls_key",
    "--ssl-cert-file": "tls_cert",
}
"""llama-server flags with a value that become settings of the supervisor's."""

REFUSED: dict[str, str] = {
    "-dr": "download the model first, and name its file with --model",
    "--docker-repo": "download the model first, and name its file with --model",
    "-hf": "download the model first, and name its file with --model",
    "-hfr": "download the model first, and name its file with --model",
    "--hf-repo": "download the model first, and name its file with --model",
    "-mu": "download the model first, and name its file with --model",
    "--model-url": "download the model first, and name its file with --model",
    "--models-dir": "the router is not supported: name one model with --model",
    "--models-preset": "the router is not supported: name one model with --model",
    "--api-prefix": "put a prefix in the proxy before the supervisor",
}
"""llama-server flags that cannot be had, with what to do instead."""

GIVEN_ANYWAY = frozenset({"--metrics"})
"""llama-server flags without a value that it always gets."""


def split(arguments: Iterable[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """Part what the supervisor takes over from what llama-server gets.

    Args:
        arguments: flags and values, `--flag value` or `--flag=value`.

    Returns:
        The flags taken over with their values, and the rest.

    Raises:
        ValueError: a flag is refused, or one to take over has no value; the message says what to do.
    """
    taken: dict[str, str] = {}
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        flag, equals, value = argument.partition("=")
        if flag.startswith("--"):
            flag = flag.replace("_", "-")  # as llama-server takes them (common/arg.cpp)
        if flag in REFUSED:
            raise ValueError(f"{flag} is the supervisor's: {REFUSED[flag]}")
        if flag in GIVEN_ANYWAY:
            continue
        if flag not in TAKEN_OVER:
            rest.append(argument)
            continue
        following = value if equals else next(remaining, None)
        if following is None:
            raise ValueError(f"{flag} has no value")
        several = flag == "--api-key" and flag in taken
        taken[flag] = f"{taken[flag]},{following}" if several else following
    return taken, tuple(rest)


def as_settings(taken: Mapping[str, str]) -> dict[str, str]:
    """Flags taken over as the settings they become."""
    return {TAKEN_OVER[flag]: value for flag, value in taken.items()}
