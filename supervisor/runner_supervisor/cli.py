"""The `runner-supervisor` command. Thin: it parses, calls, prints."""

from __future__ import annotations

import faulthandler
import itertools
import json
import os
import sys
import time
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text
from typer.core import TyperCommand

from runner_supervisor import (
    __version__,
    bench_cli,
    building,
    doctor,
    keys_cli,
    pid1,
    service_cli,
    show,
    watch,
    watch_show,
)
from runner_supervisor.calls import Calls
from runner_supervisor.engine.binary import EngineBinary
from runner_supervisor.engine.logs import level_of as engine_level_of
from runner_supervisor.errors import EngineError, RunnerError
from runner_supervisor.follow import last_lines, new_lines
from runner_supervisor.front import audit
from runner_supervisor.logformat import log_to_stderr
from runner_supervisor.options import (
    ConfigOption,
    EngineArguments,
    HostOption,
    JsonOption,
    ModelOption,
    PortOption,
    StateDirOption,
    flags_of,
    layout_of,
)
from runner_supervisor.remote import Remote, has_ended, wait_until
from runner_supervisor.service.herald import extension
from runner_supervisor.service.journal import JournalHandler, goes_to_journal
from runner_supervisor.service.manager import Manager, inherited_listener
from runner_supervisor.settings import load_settings

STOP_SLACK_S = 15.0
FOLLOW_S = 0.1

commands = typer.Typer(
    help="Builds, supervises and fronts llama.cpp's llama-server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
commands.add_typer(keys_cli.commands, name="keys")
commands.add_typer(service_cli.commands, name="service")
WhereOption = Annotated[
    Path | None,
    typer.Option(
        "--config", help="Settings file that names the state folder; what is read again is the file given to `start`."
    ),
]


class Level(StrEnum):
    """Levels of log lines, least first."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


HandedOn = Annotated[list[str] | None, typer.Argument(metavar="[OPTIONS]", show_default=False)]
HANDED_ON: dict[str, Any] = {
    "context_settings": {"ignore_unknown_options": True, "help_option_names": []},
    "add_help_option": False,
}
"""How a command is declared whose arguments are the builder's to understand."""


def main() -> NoReturn:
    """Run the command line; errors a user can meet end in one line on stderr and their exit code."""
    try:
        commands()
    except RunnerError as error:
        show.err.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        show.out.print(f"runner-supervisor {__version__}", highlight=False)
        raise typer.Exit


@commands.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Builds, supervises and fronts llama.cpp's llama-server."""


class Start(TyperCommand):
    """`start`, which says where llama-server's own flags go to who gives one among ours."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            if type(error).__name__ == "NoSuchOption" and not vars(error)["possibilities"]:
                vars(error)["message"] += ". llama-server's own go after --: runner-supervisor start -- FLAGS"
            raise


@commands.command(cls=Start)
def start(
    *,
    model: ModelOption = None,
    host: HostOption = None,
    port: PortOption = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate chain: serve HTTPS.", show_default="plain HTTP")
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(help="PEM file with the certificate's private key.", show_default=False)
    ] = None,
    insecure_no_auth: Annotated[
        bool, typer.Option("--insecure-no-auth", help="Without keys, let in whoever can reach the address.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start although the model is estimated not to fit into memory.")
    ] = False,
    engine_args: EngineArguments = None,
) -> None:
    """Serve a model: build llama-server if need be, supervise it, answer on one address."""
    from runner_supervisor import app  # noqa: PLC0415 - only this command needs FastAPI, which takes long to import

    if os.getpid() == 1:
        pid1.stay_behind()
    given = {
        "model": model,
        "host": host,
        "port": port,
        "state_dir": state_dir,
        "tls_cert": tls_cert,
        "tls_key": tls_key,
        "insecure_no_auth": insecure_no_auth or None,
        "force": force or None,
        "engine_args": flags_of(engine_args),
    }
    settings = load_settings(given, config=config)
    in_journal = goes_to_journal(os.environ, descriptor=sys.stderr.fileno())
    log_to_stderr(
        show.err,
        style=settings.log_format,
        level=settings.log_level,
        journal=JournalHandler() if in_journal else None,
    )
    faulthandler.enable()  # a watchdog's ABRT shows where it hung
    manager = Manager.of(os.environ, pid=os.getpid())
    more_time = extension(building.BEAT_S * 3)
    calls = Calls(
        load=lambda: load_settings(given, config=config),
        find_binary=partial(
            building.find_binary, beat=partial(manager.tell, "STATUS=finding or building llama-server", more_time)
        ),
        present_binary=building.present_binary,
        on_sizing=lambda sizing: show.sizing(sizing, to=show.err),
        on_ready=show.banner,
    )
    app.run(settings, calls, manager=manager, listener=inherited_listener(os.environ, pid=os.getpid()))


@commands.command(**HANDED_ON)
def build(arguments: HandedOn = None) -> None:
    """Build llama-server. `runner-supervisor build --help` shows the options."""
    raise typer.Exit(building.run_builder(["build", *building.verify_with(), *(arguments or [])], stdout=None)[0])


@commands.command(**HANDED_ON)
def builds(arguments: HandedOn = None) -> None:
    """List, choose and prune builds of llama-server. `runner-supervisor builds --help` shows how."""
    raise typer.Exit(building.run_builder(["builds", *(arguments or [])], stdout=None)[0])


@commands.command(**HANDED_ON)
def vendor(arguments: HandedOn = None) -> None:
    """Put llama.cpp's source into this checkout. `runner-supervisor vendor --help` shows the options."""
    raise typer.Exit(building.run_builder(["vendor", *(arguments or [])], stdout=None)[0])


@commands.command()
def check(
    *,
    model: ModelOption = None,
    host: HostOption = None,
    port: PortOption = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
    engine_args: EngineArguments = None,
) -> None:
    """See whether a start would work: what it needs, whether it is there, and what to do if not. Starts nothing.

    Exit code 1 when something is missing. What llama-server thinks of its flags is known only when it starts.
    """
    given = {
        "model": model,
        "host": host,
        "port": port,
        "state_dir": state_dir,
        "engine_args": flags_of(engine_args),
    }
    with show.err.status("looking at this machine"):
        try:
            in_use: EngineBinary | RunnerError = building.present_binary()
        except EngineError as error:
            in_use = error
        found = doctor.examine(
            lambda: load_settings(given, config=config), in_use=in_use, machine_has=building.what_the_machine_has()
        )
    if as_json:
        show.out.print_json(json.dumps(show.examination_as_json(found)))
    else:
        show.examination(found)
    raise typer.Exit(0 if found.works else 1)


@commands.command()
def status(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing: the exit code says it.")] = False,
    watched: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, once a second, until Ctrl-C; follows over restarts.")
    ] = False,
) -> None:
    """Show what runs: engine state, model, address. Exit code 0 when READY, 1 when not, 3 when nothing runs.

    With --watch also requests at work, charts, restarts and logs: a page on a terminal, a line a second in a pipe,
    lines of JSON with --json. Ctrl-C ends it with exit code 0.
    """
    if watched and quiet:
        raise typer.BadParameter("--watch shows and --quiet does not; give one of them")
    remote = Remote(layout_of(config, state_dir))
    if watched:
        watch_show.watch(watch.follow(remote), as_json=as_json)
        return
    answer = remote.status()
    if as_json:
        show.out.print_json(json.dumps(answer))
    elif not quiet:
        show.status(answer)
    raise typer.Exit(0 if answer["engine"]["state"] == "ready" and not answer["draining"] else 1)


@commands.command()
def logs(
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new lines, until Ctrl-C.")] = False,
    front: Annotated[
        bool, typer.Option("--front/--engine", help="The supervisor's own log, or llama-server's.")
    ] = False,
    audited: Annotated[bool, typer.Option("--audit", help="The audit log: who asked for what.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines.")] = 50,
    level: Annotated[Level, typer.Option(help="Least level of the lines shown.")] = Level.DEBUG,
    as_json: JsonOption = False,
) -> None:
    """Show the engine's log, the supervisor's, or the audit log. Works when nothing runs, too."""
    if front and audited:
        raise typer.BadParameter("--front and --audit are two logs; give one of them")
    layout = layout_of(config, state_dir)
    path = layout.audit_log if audited else layout.front_log if front else layout.engine_log
    level_of = audit.level_of if audited else engine_level_of
    if not path.exists():
        if not follow:
            raise RunnerError(f"no log at {path}; has a supervisor ever run on {layout.state_dir}?")
        show.err.print(f"waiting for {path}", highlight=False)
    after = new_lines(path)
    coming = itertools.chain([next(after)], after) if follow else ()  # begun now, so that no line falls between
    source = "front" if front else "engine"
    tell = partial(show.log_line_as_json, source=source) if as_json and not audited else show.log_line
    for line in last_lines(path, lines, lambda line: show.is_at_least(level_of(line), level)):
        tell(line, level_of(line))
    for new in coming:
        if new is None:
            time.sleep(FOLLOW_S)
        elif show.is_at_least(level_of(new), level):
            tell(new, level_of(new))


@commands.command()
def log_level(
    level: Annotated[Level | None, typer.Argument(help="From now on the least; none: show what it is.")] = None,
    *,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Show or change what the running supervisor logs, until it ends or a reload brings another log_level."""
    show.out.print(Remote(layout_of(config, state_dir)).log_level(level))


@commands.command()
def restart(*, config: ConfigOption = None, state_dir: StateDirOption = None) -> None:
    """Put a new llama-server in the place of the running one; requests at work may finish."""
    _change("restart", config, state_dir)


@commands.command()
def reload(*, config: WhereOption = None, state_dir: StateDirOption = None) -> None:
    """Read the settings again. What needs a new llama-server gets one, and the old one stays if it fails."""
    _change("reload", config, state_dir)


def _change(what: str, config: Path | None, state_dir: Path | None) -> None:
    remote = Remote(layout_of(config, state_dir))
    number = remote.change(what)
    said = ""
    with show.err.status(f"{what} under way"):
        while (change := remote.status()["change"])["number"] == number and change["progress"] == "running":
            if change["detail"] != said:
                said = change["detail"]
                show.err.print(said, highlight=False)
            time.sleep(FOLLOW_S)
    if change["progress"] != "done":
        raise RunnerError(f"{what} {change['progress']}: {change['detail']}")
    show.out.print(f"{what} done: {change['detail']}", highlight=False)


@commands.command()
def stop(*, config: ConfigOption = None, state_dir: StateDirOption = None) -> None:
    """Stop the running supervisor: finish requests in flight, end llama-server, wait until it has gone."""
    remote = Remote(layout_of(config, state_dir))
    answer = remote.status()
    process = remote.stop()
    limit_s = answer["ends_within_s"] + STOP_SLACK_S
    late = f"process {process.pid} has not stopped after {limit_s:g} s; see its log"
    with show.err.status(Text(f"stopping {answer['address']}: {answer['in_flight']} requests in flight")):
        wait_until(lambda: has_ended(process), limit_s=limit_s, late=late)
    show.out.print("stopped")


commands.command()(bench_cli.bench)
