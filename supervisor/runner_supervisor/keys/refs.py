"""What people call a key: its name, its id, or the beginning of its id."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from runner_supervisor.errors import KeysError
from runner_supervisor.keys.key import ID_DIGITS, Key

LEAST_PREFIX = 6
"""Fewer digits of an id are not enough to tell which key is meant."""

NAME_CHARACTERS = 100
_ID = re.compile(f"[0-9a-f]{{{ID_DIGITS}}}")


def check_name(name: str) -> str:
    """The name, if it is a good one for a key.

    Raises:
        KeysError: it is empty, long, unprintable, or could be taken for an id or an option.
    """
    if not name or name != name.strip() or not name.isprintable() or len(name) > NAME_CHARACTERS:
        raise KeysError(
            f"{name!r} is no name for a key; write 1 to {NAME_CHARACTERS} printable characters, no space around them"
        )
    if _ID.fullmatch(name) or name.startswith("-"):
        raise KeysError(
            f"{name!r} could be taken for {'an option' if name[0] == '-' else 'an id'}; choose another name"
        )
    return name


def resolve(ref: str, keys: Sequence[Key]) -> Key:
    """The key that is meant: by its id, by its name (of a key in use before a revoked one's), by its id's beginning.

    Raises:
        KeysError: there is none, or there are several.
    """
    found = (
        [key for key in keys if key.id == ref]
        or [key for key in keys if key.name == ref and key.revoked_s is None]
        or [key for key in keys if key.name == ref]
        or [key for key in keys if len(ref) >= LEAST_PREFIX and key.id.startswith(ref)]
    )
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(key.id for key in found)
        raise KeysError(f"{ref!r} may be any of the keys {ids}; name one by its id")
    close = difflib.get_close_matches(ref, [key.name for key in keys] + [key.id for key in keys], n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "; `runner-supervisor keys list --all` shows all"
    raise KeysError(f"there is no key {ref!r}{hint}")
