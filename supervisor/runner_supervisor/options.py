"""Options that several commands have, and the state folder they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner_supervisor.errors import ConfigError
from runner_supervisor.layout import Layout
from runner_supervisor.settings import load_settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML settings file.", show_default="RUNNER_CONFIG or none")
]
StateDirOption = Annotated[Path | None, typer.Option("--state-dir", help="Folder for keys, logs and sockets.")]
ModelOption = Annotated[Path | None, typer.Option(help="GGUF file to serve.", show_default="a demo model")]
HostOption = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]
PortOption = Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.", show_default="8080")]
EngineArguments = Annotated[list[str] | None, typer.Argument(metavar="[-- LLAMA-SERVER FLAGS]", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def layout_of(config: Path | None, state_dir: Path | None) -> Layout:
    """Where the files are of the state folder that is meant.

    Raises:
        ConfigError: the settings that would name it are broken.
    """
    if state_dir:  # so that a settings file that has been broken since does not keep anybody from stopping
        return Layout(state_dir.expanduser().absolute())
    return Layout(load_settings({"state_dir": state_dir}, config=config).state_dir)


def flags_of(arguments: list[str] | None) -> tuple[str, ...] | None:
    """llama-server's flags as they were given after `--`, None without any.

    Raises:
        ConfigError: the first is none: somebody forgot `--model`.
    """
    if arguments and not arguments[0].startswith("-"):
        raise ConfigError(f"{arguments[0]!r} is no option; did you mean --model {arguments[0]}?")
    return tuple(arguments) if arguments else None
