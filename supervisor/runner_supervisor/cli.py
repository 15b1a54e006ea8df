"""The `runner-supervisor` command. Thin: it parses, calls, prints."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, NoReturn

import httpx
import psutil
import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from runner_supervisor import __version__, app
from runner_supervisor.engine.binary import EngineBinary, read_manifest
from runner_supervisor.errors import NotRunningError, RunnerError
from runner_supervisor.layout import Layout
from runner_supervisor.settings import load_settings

CONTROL_TIMEOUT_S = 5.0
STOP_SLACK_S = 15.0
POLL_S = 0.05

commands = typer.Typer(
    help="Builds, supervises and fronts llama.cpp's llama-server.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
out = Console(soft_wrap=True)
err = Console(stderr=True, soft_wrap=True)

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="TOML settings file.", show_default="RUNNER_CONFIG or none")
]
StateDirOption = Annotated[Path | None, typer.Option("--state-dir", help="Folder for keys, logs and sockets.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def main() -> NoReturn:
    """Run the command line; errors a user can meet end in one line on stderr and their exit code."""
    try:
        commands()
    except RunnerError as error:
        err.print(Text.assemble(("error: ", "bold red"), str(error)))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


def _version(wanted: bool) -> None:
    if wanted:
        out.print(f"runner-supervisor {__version__}", highlight=False)
        raise typer.Exit


@commands.callback()
def root(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Builds, supervises and fronts llama.cpp's llama-server."""


@commands.command()
def start(
    *,
    model: Annotated[Path | None, typer.Option(help="GGUF file to serve.", show_default="a demo model")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="TCP port; 0 takes a free one.", show_default="8080")] = None,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    engine_args: Annotated[
        list[str] | None, typer.Argument(metavar="[-- LLAMA-SERVER FLAGS]", show_default=False)
    ] = None,
) -> None:
    """Serve a model: build llama-server if need be, supervise it, answer on one address."""
    settings = load_settings(
        {
            "model": model,
            "host": host,
            "port": port,
            "state_dir": state_dir,
            "engine_args": tuple(engine_args) if engine_args else None,
        },
        config=config,
    )
    handler: logging.Handler = (
        RichHandler(console=err, show_path=False, rich_tracebacks=False, log_time_format="%X")
        if err.is_terminal
        else logging.StreamHandler()
    )
    line = "%(message)s" if err.is_terminal else "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=settings.log_level.upper(), format=line, handlers=[handler])
    for name in ("httpx", "httpcore", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # it warns of every request that is no HTTP
    app.run(settings, find_binary=_find_binary, on_ready=_greet)


@commands.command(context_settings={"ignore_unknown_options": True, "help_option_names": []}, add_help_option=False)
def build(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[OPTIONS]", show_default=False)] = None,
) -> None:
    """Build llama-server. `runner-supervisor build --help` shows the options."""
    raise typer.Exit(_builder(["build", *(arguments or [])], stdout=None)[0])


@commands.command()
def status(*, config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonOption = False) -> None:
    """Show what runs: engine state, model, address. Exit code 0 when READY, 1 when not, 3 when nothing runs."""
    answer = _ask(_layout(config, state_dir), "GET", "/admin/status")
    if as_json:
        out.print_json(json.dumps(answer))
    else:
        _print_status(answer)
    raise typer.Exit(0 if answer["engine"]["state"] == "ready" else 1)


@commands.command()
def stop(*, config: ConfigOption = None, state_dir: StateDirOption = None) -> None:
    """Stop the running supervisor: finish requests in flight, end llama-server, wait until it has gone."""
    settings = load_settings({"state_dir": state_dir}, config=config)
    layout = Layout(settings.state_dir)
    answer = _ask(layout, "GET", "/admin/status")
    process = psutil.Process(answer["pid"])
    _ask(layout, "POST", "/admin/stop")
    limit_s = settings.drain_timeout_s + settings.stop_grace_s + STOP_SLACK_S
    deadline = time.monotonic() + limit_s
    with err.status(f"stopping {answer['address']}: {answer['in_flight']} requests in flight"):
        while _lives(process):
            if time.monotonic() > deadline:
                raise RunnerError(f"process {process.pid} has not stopped after {limit_s:g} s; see its log")
            time.sleep(POLL_S)
    out.print("stopped")


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _find_binary() -> EngineBinary:
    code, manifest = _builder(["build", "--reuse", "--print-manifest"], stdout=subprocess.PIPE)
    if code != 0:
        raise SystemExit(code)
    return read_manifest(Path(manifest.strip()))


def _builder(arguments: list[str], *, stdout: int | None) -> tuple[int, str]:
    """Run the builder as a command, so that its manifest stays the only thing both sides share."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda got, _: sys.exit(128 + got))
    command = [sys.executable, "-m", "runner_builders", *arguments]
    # In a session of its own: a Ctrl-C comes here alone, and the builder gets one TERM to clean up after.
    with subprocess.Popen(command, stdout=stdout, text=True, start_new_session=True) as builder:
        try:
            printed, _ = builder.communicate()
        except BaseException:
            builder.terminate()
            builder.wait(STOP_SLACK_S)
            err.print("interrupted; the next build goes on where this one stopped")
            raise
        finally:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
    return builder.returncode, printed or ""


def _layout(config: Path | None, state_dir: Path | None) -> Layout:
    return Layout(load_settings({"state_dir": state_dir}, config=config).state_dir)


def _ask(layout: Layout, method: str, path: str) -> Any:
    """Call the running supervisor over its control socket."""
    transport = httpx.HTTPTransport(uds=str(layout.control_socket))
    try:
        with httpx.Client(transport=transport, timeout=CONTROL_TIMEOUT_S, trust_env=False) as client:
            response = client.request(method, f"http://control{path}")
            response.raise_for_status()
            return response.json()
    except httpx.HTTPStatusError as error:
        raise RunnerError(f"the supervisor on {layout.state_dir} answers {error.response.status_code}") from None
    except httpx.TimeoutException:
        raise RunnerError(f"the supervisor on {layout.state_dir} does not answer; see its log") from None
    except httpx.TransportError:
        if layout.locked:
            raise RunnerError(
                f"the supervisor on {layout.state_dir} is starting (it may be building llama-server) or ending"
            ) from None
        raise NotRunningError(
            f"no supervisor runs on {layout.state_dir}; start one with `runner-supervisor start`"
        ) from None


def _curl(ready: app.Ready) -> str:
    key = f' -H "Authorization: Bearer {ready.new_key or "$API_KEY"}"' if ready.key_store else ""
    body = '{"messages":[{"role":"user","content":"Hello!"}],"max_tokens":48}'
    return f"curl {ready.address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"


def _greet(ready: app.Ready) -> None:
    """The banner: what is served where, and a line to try it with."""
    rows = [
        ("address", ready.address if ready.host in ready.address else f"{ready.address} (listening on {ready.host})"),
        ("model", str(ready.model)),
        ("backend", ready.backend),
        ("engine log", str(ready.log)),
    ]
    if ready.new_key:
        rows.append(("API key", f"{ready.new_key}  (shown this once: only its hash is kept)"))
    elif ready.key_store:
        rows.append(("API key", f"needed. Lost? Stop, delete {ready.key_store}, and start again for a new one"))
    if out.is_terminal:
        out.print(Panel(_grid(rows), title="runner-supervisor is ready", expand=False, border_style="green"))
    else:
        out.print("runner-supervisor is ready")
        _print_plain(rows)
    out.print(
        "Try it:" if ready.new_key or not ready.key_store else "Try it, with your key in API_KEY:", style="bold"
    )
    out.print(_curl(ready), highlight=False, markup=False)


def _print_status(answer: dict[str, Any]) -> None:
    engine = answer["engine"]
    drain = " (draining)" if answer["draining"] else ""
    colour = {"ready": "green", "failed": "red"}.get(engine["state"], "yellow")
    rows = [
        ("address", answer["address"]),
        ("engine", f"{engine['state']} for {engine['state_age_s']:.0f} s{drain}"),
        ("engine pid", str(engine["pid"] or "-")),
        ("model", engine["model"]),
        ("backend", f"{engine['backend']} (llama.cpp {engine['commit']})"),
        (
            "in flight",
            f"{answer['in_flight']}, {answer['queued']} of them waiting for one of {engine['slots']} slots",
        ),
        ("restarts", str(engine["restarts"])),
        ("last death", engine["last_death"] or "-"),
        ("engine log", engine["log"]),
        ("supervisor", f"pid {answer['pid']}, up {answer['uptime_s']:.0f} s, version {answer['version']}"),
    ]
    if out.is_terminal:
        out.print(_grid(rows, styles={"engine": colour}))
    else:
        _print_plain(rows)


def _grid(rows: list[tuple[str, str]], *, styles: dict[str, str] | None = None) -> Table:
    grid = Table.grid(padding=(0, 2))
    for name, value in rows:
        grid.add_row(Text(name, style="bold"), Text(value, style=(styles or {}).get(name, "")))
    return grid


def _print_plain(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        out.print(f"{name + ':':<12} {value}", highlight=False, markup=False)
