"""The `service` commands: the machine's own service manager starts the supervisor, and keeps it."""

from __future__ import annotations

import grp
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from runner_supervisor import show
from runner_supervisor.engine.model import check_model
from runner_supervisor.errors import ConfigError, RunnerError
from runner_supervisor.options import ConfigOption, EngineArguments, HostOption, ModelOption, PortOption, flags_of
from runner_supervisor.service import install as effects
from runner_supervisor.service import launchd, systemd
from runner_supervisor.service.unit import NAME, Installation, Scope, Unit
from runner_supervisor.settings import Settings, load_settings

STOP_SLACK_S = 20.0
"""What a stop may take beyond the requests at work and llama-server's grace period, in seconds."""

GPU_DEVICES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dri")
GPU_GROUPS = ("video", "render")
HIDDEN = (Path("/home"), Path("/root"), Path("/run/user"), Path("/tmp"), Path("/var/tmp"))  # noqa: S108  # nosec B108
"""What a machine's service does not see (systemd.exec(5), ProtectHome= and PrivateTmp=)."""

commands = typer.Typer(
    help="Have systemd (Linux) or launchd (macOS) start the supervisor, and keep it.", no_args_is_help=True
)
SystemOption = Annotated[
    bool | None,
    typer.Option(
        "--system/--user", help="For the machine, or for you alone.", show_default="--system for root, else --user"
    ),
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show files and commands; change nothing.")]


@commands.command()
def install(
    *,
    system: SystemOption = None,
    model: ModelOption = None,
    host: HostOption = None,
    port: PortOption = None,
    config: ConfigOption = None,
    api_keys_file: Annotated[
        Path | None,
        typer.Option(help="File with API keys, one on a line; root's alone is fine.", show_default=False),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Start it, or start it anew.")] = False,
    dry_run: DryRunOption = False,
    engine_args: EngineArguments = None,
) -> None:
    """Install the service, in the place of one that is there. It starts with the machine, or when you log in."""
    given = {
        "model": model,
        "host": host,
        "port": port,
        "api_keys_file": api_keys_file,
        "engine_args": flags_of(engine_args),
    }
    settings = load_settings(given, config=config)
    if settings.model and model:
        check_model(settings.model)
    if api_keys_file and not api_keys_file.expanduser().exists():
        raise ConfigError(f"there is no file with keys at {api_keys_file}; give one that there is")
    chosen = {name: getattr(settings, name) for name, value in given.items() if value is not None}
    unit = _unit(settings, chosen, config=config, scope=_scope(system))
    if unit.scope is Scope.SYSTEM and sys.platform == "linux":
        _refuse_hidden(unit, settings, config)
    installation = _installation(unit)
    if dry_run:
        for path, text in installation.files:
            _print(f"# {path}\n{text}")
        _print_commands((*installation.enable, *(installation.start if now else ())))
        return
    _require_root(unit.scope)
    effects.install(installation, now=now, stop_s=unit.stop_s)
    for path, _ in installation.files:
        _print(str(path))
    if not now:
        _print("start it with:")
        _print_commands(installation.start)


@commands.command()
def uninstall(*, system: SystemOption = None, dry_run: DryRunOption = False) -> None:
    """Stop the service and remove all of it but its state (and, on Linux, the user whose that is)."""
    scope = _scope(system)
    unit = Unit(scope=scope, command=_command(), user=_user(), gpu_groups=())
    installation = _installation(unit)
    if dry_run:
        there = effects.present(installation)
        _print_commands(installation.disable)
        _print_commands((("rm", *map(str, there)),))
        _print_commands(installation.after)
        return
    _require_root(scope)
    for path in effects.uninstall(installation, stop_s=unit.stop_s):
        _print(f"removed {path}")


def _unit(settings: Settings, chosen: dict[str, Any], *, config: Path | None, scope: Scope) -> Unit:
    """A service as it was `chosen` on the command line. The rest it reads from its settings file when it starts, and
    again at each reload; its address alone has to be known before.
    """
    environment = {
        "RUNNER_MODEL": chosen.get("model"),
        "RUNNER_CONFIG": config and config.expanduser().absolute(),
        "RUNNER_ENGINE_ARGS": shlex.join(chosen.get("engine_args", ())),
    }
    return Unit(
        scope=scope,
        command=_command(),
        host=settings.host,
        port=settings.port,
        environment=tuple((name, str(value)) for name, value in environment.items() if value),
        keys_file=chosen.get("api_keys_file"),
        stop_s=settings.drain_timeout_s + settings.stop_grace_s + STOP_SLACK_S,
        user=_user(),
        gpu_groups=_gpu_groups() if any(Path(device).exists() for device in GPU_DEVICES) else None,
    )


def _installation(unit: Unit) -> Installation:
    """What this machine's service manager takes.

    Raises:
        RunnerError: it has none that is known.
    """
    if sys.platform == "darwin":
        home = Path(f"~{unit.user}").expanduser() if unit.scope is Scope.SYSTEM else Path.home()
        return launchd.installation(unit, home=home)
    if sys.platform != "linux":
        raise RunnerError("no service manager of this system is known; docs/operations.md says what to do on Windows")
    config_home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return systemd.installation(unit, home=Path("/etc"), config_home=config_home)


def _scope(system: bool | None) -> Scope:
    chosen = os.geteuid() == 0 if system is None else system
    return Scope.SYSTEM if chosen else Scope.USER


def _user() -> str:
    """As whom the machine's service runs: on macOS, where users are not made so easily, whoever asks for it."""
    return os.environ.get("SUDO_USER", "root") if sys.platform == "darwin" else NAME


def _command() -> Path:
    """The `runner-supervisor` that belongs to this Python.

    Raises:
        RunnerError: there is none.
    """
    command = Path(sys.executable).with_name(NAME)
    if not command.exists():
        raise RunnerError(f"there is no {command} for a service to run; install the package with pip, pipx or uv")
    return command


def _gpu_groups() -> tuple[str, ...]:
    """Those that this machine has: a unit with another does not start."""
    there = {group.gr_name for group in grp.getgrall()}
    return tuple(name for name in GPU_GROUPS if name in there)


def _refuse_hidden(unit: Unit, settings: Settings, config: Path | None) -> None:
    for path in (unit.command, Path(sys.base_prefix), settings.model, config):
        if path and any(path.expanduser().absolute().is_relative_to(folder) for folder in HIDDEN):
            raise ConfigError(
                f"a machine's service does not see {path}, as homes and temporary folders are hidden from it; "
                "move it (/opt and /srv are good places), or install with --user"
            )


def _require_root(scope: Scope) -> None:
    if scope is Scope.SYSTEM and os.geteuid() != 0:
        raise RunnerError("a service of the machine's is root's to change: use sudo, or --user for one of yours")


def _print_commands(commands: tuple[tuple[str, ...], ...]) -> None:
    for command in commands:
        _print(shlex.join(command))


def _print(text: str) -> None:
    show.out.print(text, highlight=False, markup=False)
