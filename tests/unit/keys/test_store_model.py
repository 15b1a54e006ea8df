"""Whatever is done to keys, by whomever, who is let in is who should be."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from runner_supervisor.core.access import Scope
from runner_supervisor.errors import KeysError
from runner_supervisor.keys.store import KeyStore

TIMES_S = st.sampled_from([0, 1, 2, 5])
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "rotate", "revoke", "pass", "give", "import"]),
        st.integers(0, 5),
        TIMES_S,
        st.booleans(),
    ),
    max_size=25,
)


@dataclass
class Model:
    """What should be: which key each secret is of, and until when keys and secrets hold."""

    now_s: float = 1000.0
    key_of: dict[str, str] = field(default_factory=dict)
    secret_ends_s: dict[str, float] = field(default_factory=dict)
    key_ends_s: dict[str, float] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)

    def opens(self, secret: str) -> bool:
        """Whether this secret should let anybody in."""
        if secret not in self.key_of:
            return secret in self.given
        return self.now_s < min(self.secret_ends_s[secret], self.key_ends_s[self.key_of[secret]])

    def rotated(self, key: str, *, grace_s: float) -> None:
        for secret, of in self.key_of.items():
            if of == key:
                self.secret_ends_s[secret] = min(self.secret_ends_s[secret], self.now_s + grace_s)

    def add(self, secret: str, key: str) -> None:
        self.key_of[secret] = key
        self.secret_ends_s[secret] = float("inf")


def act(store: KeyStore, model: Model, step: tuple[str, int, int, bool]) -> None:
    what, which, time_s, flag = step
    keys = sorted(model.key_ends_s)
    if what == "create":
        expires_s = model.now_s + time_s if flag and time_s else None
        made = store.create(f"key {len(keys)}", scopes=[Scope.INFERENCE], expires_s=expires_s)
        model.key_ends_s[made.key.id] = expires_s or float("inf")
        model.add(made.secret, made.key.id)
    elif what == "import":
        for key in store.import_plain("import", [f"given {which}"]):
            model.key_ends_s[key.id] = float("inf")
            model.add(f"given {which}", key.id)
    elif what == "rotate" and keys:
        key_id = keys[which % len(keys)]
        try:
            new = store.rotate(key_id, grace_s=time_s)
        except KeysError:
            assert model.key_ends_s[key_id] <= model.now_s
        else:
            model.rotated(key_id, grace_s=time_s)
            model.add(new.secret, key_id)
    elif what == "revoke" and keys:
        key_id = keys[which % len(keys)]
        store.revoke(key_id)
        model.key_ends_s[key_id] = min(model.key_ends_s[key_id], model.now_s)
    elif what == "pass":
        model.now_s += time_s


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_find_lets_in_whom_it_should(steps: list[tuple[str, int, int, bool]]) -> None:
    model = Model()
    with ExitStack() as stack:
        path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "keys.sqlite"
        stores = [stack.enter_context(closing(KeyStore(path, now=lambda: model.now_s))) for _ in range(2)]
        writer, reader = stores
        answers: dict[str, object] = {}
        for step in steps:
            version = reader.version
            if step[0] == "give":
                model.given = {f"given {number}" for number in range(step[1])}
                for store in stores:
                    store.give(model.given)
            act(writer, model, step)
            changed = reader.refresh()
            assert changed or step[0] == "give" or reader.version == version
            secrets = [*model.key_of, *(f"given {number}" for number in range(6)), "other"]
            found = {secret: reader.find(secret.encode()) for secret in secrets}
            assert {secret for secret in secrets if found[secret]} == {s for s in secrets if model.opens(s)}
            assert all(writer.find(secret.encode()) == found[secret] for secret in secrets)
            assert all(found[s].id == model.key_of[s] for s in model.key_of if found[s])  # type: ignore[union-attr]
            if any(answers.get(secret) != found[secret] for secret in secrets):
                assert reader.version != version
            answers = dict(found)
            assert reader.locked_down is bool(model.key_ends_s or model.given)
