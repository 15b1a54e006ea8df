"""The `keys` commands. They write the key database itself; a running supervisor acts on it within a second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from runner_supervisor import keys_show
from runner_supervisor.core.access import Scope
from runner_supervisor.core.quota import Limits
from runner_supervisor.errors import KeysError, RunnerError
from runner_supervisor.keys.key import Key
from runner_supervisor.keys.quantities import parse_duration, parse_expiry, parse_quota
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.keys.usage import UsageBook
from runner_supervisor.layout import Layout
from runner_supervisor.options import ConfigOption, JsonOption, StateDirOption, layout_of
from runner_supervisor.settings import read_key_file

commands = typer.Typer(
    help="Make, list, rotate and revoke API keys, whether or not a supervisor runs.", no_args_is_help=True
)


def complete_ref(context: typer.Context, incomplete: str) -> list[tuple[str, str]]:
    """Names of keys in use that begin so, with their ids, or ids; for the shell's completion."""
    given: dict[str, Any] = context.params
    try:
        layout = layout_of(given.get("config"), given.get("state_dir"))
        with _existing(layout) as store:
            keys = store.keys()
    except RunnerError:  # a shell that completes has no place for what is wrong; the command will say it
        return []
    names = [(key.name, key.id) for key in keys if key.name.startswith(incomplete)]
    return names or [(key.id, key.name) for key in keys if key.id.startswith(incomplete)]


RefArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="Name, id, or the beginning of the id.", autocompletion=complete_ref)
]


@commands.command()
def create(
    *,
    name: Annotated[str, typer.Option(help="What you call it; no other key in use may be called so.")],
    scope: Annotated[
        list[Scope], typer.Option(help="What it is for; may be given several times. admin includes the others.")
    ] = [Scope.INFERENCE],  # noqa: B006  typer copies it
    models: Annotated[
        list[str], typer.Option(metavar="PATTERN", help="Models it is for, as 'qwen*'.", show_default="any")
    ] = [],  # noqa: B006  typer copies it
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="When it ends: 90d, 12h, or 2030-12-31.", show_default="never")
    ] = None,
    rate: Annotated[
        str | None, typer.Option(metavar="N/TIME", help="Requests it may make: 60/min.", show_default="any number")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(
            metavar="N/TIME", help="Tokens it may use, prompts included: 1M/day.", show_default="any number"
        ),
    ] = None,
    concurrent: Annotated[
        int | None,
        typer.Option(
            min=1, max=1_000_000, help="Requests at once, waiting ones included.", show_default="any number"
        ),
    ] = None,
    weight: Annotated[
        float, typer.Option(min=0.001, max=1000, help="Its share of the slots, beside keys of weight 1.")
    ] = 1.0,
    priority: Annotated[
        int, typer.Option(min=-1000, max=1000, help="Of those that wait, higher priorities go first.")
    ] = 0,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a key. Its secret goes to stdout, this once."""
    limits = Limits(
        requests=parse_quota(rate) if rate is not None else None,
        tokens=parse_quota(tokens) if tokens is not None else None,
        concurrent=concurrent,
    )
    expires_s = parse_expiry(expires, now_s=time.time()) if expires is not None else None
    with _made(layout_of(config, state_dir)) as store:
        new = store.create(
            name,
            scopes=scope,
            models=models,
            limits=limits,
            expires_s=expires_s,
            weight=weight,
            priority=priority,
        )
        ends = f", until {keys_show.moment(expires_s)}" if expires_s is not None else ""
        said = f"made key {new.key.name} ({new.key.id}) for {', '.join(sorted(new.key.scopes))}{ends}"
        keys_show.issued(new, said=said, in_json=as_json, now_s=time.time())


@commands.command("list")
def list_(
    *,
    every: Annotated[bool, typer.Option("--all", help="Revoked ones too.")] = False,
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the keys. Those that the settings give are not among them."""
    layout = layout_of(config, state_dir)
    keys: list[Key] = []
    locked_down = False
    if layout.keys.exists():
        with _existing(layout) as store:
            keys, locked_down = store.keys(revoked=every), store.locked_down
    if as_json:
        keys_show.as_json([keys_show.described(key, now_s=time.time()) for key in keys])
        return
    keys_show.listing(keys, now_s=time.time())
    if not keys:
        found = f"no keys in {layout.state_dir}"
        if locked_down:
            found += " but revoked ones (--all shows them), and requests need a key all the same"
        keys_show.say(f"{found}; `runner-supervisor keys create --name NAME` makes one")


@commands.command()
def show(
    ref: RefArgument, *, config: ConfigOption = None, state_dir: StateDirOption = None, as_json: JsonOption = False
) -> None:
    """Show one key: what it is for, its limits, its secrets' ages, what it has used. Revoked ones too."""
    layout = layout_of(config, state_dir)
    with _existing(layout) as store:
        key = store.get(ref)
    with closing(UsageBook(layout.usage)) as book:
        used = book.by_day(key.id) if layout.usage.exists() else []
    if as_json:
        keys_show.as_json(keys_show.described(key, now_s=time.time()) | {"used": keys_show.used_by_day(used)})
    else:
        keys_show.details(key, used, now_s=time.time())


@commands.command()
def revoke(ref: RefArgument, *, config: ConfigOption = None, state_dir: StateDirOption = None) -> None:
    """Let a key open nothing any more, for good."""
    layout = layout_of(config, state_dir)
    with _existing(layout) as store:
        key = store.revoke(ref)
        left = store.keys()
    keys_show.say(f"revoked key {key.name} ({key.id}); a running supervisor refuses it within a second")
    if not left:
        keys_show.say(
            f"no key is left in {layout.state_dir}, and one is still needed: `runner-supervisor keys create`"
        )


@commands.command()
def rotate(
    ref: RefArgument,
    *,
    grace: Annotated[str, typer.Option(metavar="TIME", help="How long older secrets work: 24h, 30m, 0s.")] = "24h",
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a key a new secret; id and limits stay. The secret goes to stdout, this once."""
    grace_s = parse_duration(grace)
    with _existing(layout_of(config, state_dir)) as store:
        new = store.rotate(ref, grace_s=grace_s)
    until = f"until {keys_show.moment(time.time() + grace_s)}" if grace_s else "no more"
    said = f"key {new.key.name} ({new.key.id}) has a new secret, and older ones work {until}"
    keys_show.issued(new, said=said, in_json=as_json, now_s=time.time())


@commands.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A file as llama-server's --api-key-file: a key a line.")],
    *,
    name: Annotated[str, typer.Option(metavar="PREFIX", help="They are called PREFIX-1, PREFIX-2, ….")] = "imported",
    config: ConfigOption = None,
    state_dir: StateDirOption = None,
) -> None:
    """Keep the hashes of keys you have, for inference and metrics. They are no stronger than they were."""
    secrets = read_key_file(file)
    with _made(layout_of(config, state_dir)) as store:
        new = store.import_plain(name, secrets)
        known = len(set(secrets)) - len(new)
        also = f"; {known} known already, which stay as they are" if known else ""
        keys_show.say(f"imported from {file}: {len(new)} keys{also}")
        for key in new:
            keys_show.say(f"  {key.name} ({key.id})")


@contextmanager
def _existing(layout: Layout) -> Iterator[KeyStore]:
    """The keys there are; a folder that was mistyped is not made.

    Raises:
        KeysError: there are none.
    """
    if not layout.keys.exists():
        raise KeysError(
            f"there are no keys in {layout.state_dir} (another folder? see --state-dir); "
            "`runner-supervisor keys create --name NAME` makes one"
        )
    store = KeyStore(layout.keys)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def _made(layout: Layout) -> Iterator[KeyStore]:
    """The keys to add to, in a state folder that is made if need be. Says what the first of them changes."""
    layout.create()
    store = KeyStore(layout.keys)
    try:
        before = store.locked_down
        yield store
        if store.locked_down and not before:
            keys_show.say("this is the first key: from now on every request needs one, on a loopback address too")
    finally:
        store.close()
