"""Options that several commands have, and the state folder they name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner_supervisor.layout import Layout
from runner_supervisor.settings import load_settings

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML settings file.", show_default="RUNNER_CONFIG or none")
]
StateDirOption = Annotated[Path | None, typer.Option("--state-dir", help="Folder for keys, logs and sockets.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def layout_of(config: Path | None, state_dir: Path | None) -> Layout:
    """Where the files are of the state folder that is meant.

    Raises:
        ConfigError: the settings that would name it are broken.
    """
    if state_dir:  # so that a settings file that has been broken since does not keep anybody from stopping
        return Layout(state_dir.expanduser().absolute())
    return Layout(load_settings({"state_dir": state_dir}, config=config).state_dir)
