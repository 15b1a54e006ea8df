"""The `keys` commands, as processes of their own, on a real database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from runner_supervisor.core.access import Scope
from runner_supervisor.core.quota import Limits, Quota
from runner_supervisor.keys.limits import DAY_S, Count
from runner_supervisor.keys.store import KeyStore
from runner_supervisor.keys.usage import UsageBook

LIMIT_S = 60


@dataclass(frozen=True)
class Keys:
    """`runner-supervisor keys …` on one state folder."""

    state_dir: Path

    @property
    def path(self) -> Path:
        return self.state_dir / "keys.sqlite"

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "runner_supervisor", "keys", *arguments, "--state-dir", str(self.state_dir)]
        return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)

    def ok(self, *arguments: str) -> str:
        """What a command that succeeds printed on stdout."""
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *arguments: str, code: int = 1) -> str:
        """The error of a command that fails, its white space evened: a terminal's width wraps it."""
        done = self.run(*arguments)
        assert (done.returncode, done.stdout) == (code, "")
        assert "Traceback" not in done.stderr
        return " ".join(done.stderr.replace("│", " ").split())


@pytest.fixture
def keys(short_dir: Path) -> Keys:
    return Keys(short_dir / "state")


def test_a_key_lives_and_dies_while_another_process_watches(keys: Keys) -> None:
    first = keys.ok("create", "--name", "ci").removesuffix("\n")
    assert keys.state_dir.stat().st_mode & 0o777 == 0o700
    with closing(KeyStore(keys.path)) as store:
        assert store.find(first.encode()) == store.get("ci").principal
        second = keys.ok("rotate", "ci", "--grace", "1h").removesuffix("\n")
        assert store.find(second.encode()) is None
        assert store.refresh()
        assert store.find(second.encode()) == store.find(first.encode()) == store.get("ci").principal
        third = keys.ok("rotate", "ci", "--grace", "0s").removesuffix("\n")
        assert store.refresh()
        assert [bool(store.find(secret.encode())) for secret in (first, second, third)] == [False, False, True]
        assert keys.ok("revoke", "ci") == ""
        assert store.refresh()
        assert store.find(third.encode()) is None
        assert store.locked_down
    assert keys.ok("list") == ""
    assert "ci" in keys.ok("list", "--all")


def test_creating_says_once_what_it_did_and_prints_the_secret_alone(keys: Keys) -> None:
    done = keys.run("create", "--name", "ci")
    assert done.stdout.startswith("rsk_")
    assert done.stdout.count("\n") == 1
    assert done.stdout.strip() not in done.stderr
    assert "shown this once: only its hash is kept" in done.stderr
    assert "this is the first key: from now on every request needs one, on a loopback address too" in done.stderr
    assert "first key" not in keys.run("create", "--name", "cd").stderr


def test_a_key_gets_what_the_command_line_says(keys: Keys) -> None:
    keys.ok(
        *(
            "create",
            "--name",
            "ci",
            "--scope",
            "metrics",
            "--scope",
            "inference",
            "--models",
            "qwen*",
            "--models",
            "llama",
        ),
        *("--expires", "90d", "--rate", "60/min", "--tokens", "1.5M/day", "--concurrent", "4"),
        *("--weight", "2", "--priority", "-3"),
    )
    with closing(KeyStore(keys.path)) as store:
        key = store.get("ci")
    assert key.scopes == {Scope.METRICS, Scope.INFERENCE}
    assert key.models == ("qwen*", "llama")
    assert key.limits == Limits(requests=Quota(60, 60), tokens=Quota(1_500_000, 86_400), concurrent=4)
    assert (key.weight, key.priority) == (2, -3)
    assert key.expires_s
    assert key.expires_s - key.created_s == pytest.approx(90 * 86_400, abs=LIMIT_S)


def test_a_key_without_options_is_for_inference_without_limits(keys: Keys) -> None:
    keys.ok("create", "--name", "ci")
    with closing(KeyStore(keys.path)) as store:
        key = store.get("ci")
    assert (key.scopes, key.models, key.limits, key.expires_s) == ({Scope.INFERENCE}, (), Limits(), None)


def test_json_has_all_but_the_hash(keys: Keys) -> None:
    made = json.loads(keys.ok("create", "--name", "ci", "--rate", "60/min", "--json"))
    assert made["secret"].startswith("rsk_")
    assert json.loads(keys.ok("show", "ci", "--json")) == made["key"] | {"used": []}
    assert json.loads(keys.ok("list", "--json")) == [made["key"]]
    assert (made["key"]["name"], made["key"]["rate"], made["key"]["state"]) == ("ci", "60/min", "active")
    rotated = json.loads(keys.ok("rotate", made["key"]["id"][:6], "--json"))
    assert rotated["key"]["id"] == made["key"]["id"]
    assert [secret["expires_s"] is None for secret in rotated["key"]["secrets"]] == [False, True]


def test_lists_are_aligned_and_show_what_a_key_may_do(keys: Keys) -> None:
    keys.ok("create", "--name", "ci", "--rate", "60/min", "--concurrent", "4")
    keys.ok("create", "--name", "a longer name", "--scope", "admin")
    head, first, second = keys.ok("list").splitlines()
    assert first.split()[0] == "ci"
    assert "60/min requests, 4 at once" in first
    column = head.index("SCOPES")
    assert (first[column:].split()[0], second[column:].split()[0]) == ("inference", "admin")
    shown = keys.ok("show", "ci")
    assert "limits:      60/min requests, 4 at once\n" in shown
    assert "secrets:     made " in shown


def test_a_list_without_keys_says_whether_requests_need_one(keys: Keys) -> None:
    assert "need a key all the same" not in " ".join(keys.run("list").stderr.split())
    keys.ok("create", "--name", "ci")
    keys.ok("revoke", "ci")
    done = keys.run("list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "revoked ones (--all shows them), and requests need a key all the same" in " ".join(done.stderr.split())


def test_what_a_key_has_used_is_shown_by_day(keys: Keys) -> None:
    keys.ok("create", "--name", "ci")
    assert json.loads(keys.ok("show", "ci", "--json"))["used"] == []
    key_id = json.loads(keys.ok("show", "ci", "--json"))["id"]
    day = int(time.time() // DAY_S)
    counts = {(key_id, day - 1): Count(2, 1000, 20), (key_id, day): Count(1, 30, 4), ("other", day): Count(9, 9, 9)}
    with closing(UsageBook(keys.state_dir / "usage.sqlite")) as book:
        book.save([], counts)
    used = json.loads(keys.ok("show", "ci", "--json"))["used"]
    assert [(each["requests"], each["prompt_tokens"], each["generated_tokens"]) for each in used] == [
        (2, 1000, 20),
        (1, 30, 4),
    ]
    today = used[1]["day"]
    assert f"{today}: 1 requests, 30 prompt and 4 generated tokens" in keys.ok("show", "ci")


def test_two_processes_at_once_lose_nothing(keys: Keys) -> None:
    names = [f"key {number}" for number in range(4)]
    with ThreadPoolExecutor(len(names)) as pool:
        secrets = list(pool.map(lambda name: keys.ok("create", "--name", name).strip(), names))
    with closing(KeyStore(keys.path)) as store:
        found = [store.find(secret.encode()) for secret in secrets]
    assert [principal and principal.name for principal in found] == names


def test_a_llama_servers_key_file_is_imported(keys: Keys, tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    file.write_text("# of old\nfirst-secret\n\nsecond-secret\n")
    assert "2 keys" in keys.run("import", str(file), "--name", "old").stderr
    file.write_text("first-secret\nthird-secret\n")
    assert "1 keys; 1 known already" in keys.run("import", str(file), "--name", "old").stderr
    with closing(KeyStore(keys.path)) as store:
        found = [store.find(f"{which}-secret".encode()) for which in ("first", "second", "third")]
    assert [principal and principal.name for principal in found] == ["old-1", "old-2", "old-3"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create", "--name", "ci"), 1, "there is a key 'ci' already"),
        (("create", "--name", ""), 1, "'' is no name for a key"),
        (("create", "--name", "x", "--scope", "root"), 2, "'root' is not one of 'inference', 'metrics', 'admin'"),
        (("create", "--name", "x", "--rate", "60"), 78, "'60' is no amount in a time; write one like 60/min"),
        (("create", "--name", "x", "--tokens", ""), 78, "'' is no amount in a time"),
        (("create", "--name", "x", "--expires", "soon"), 78, "'soon' is no time; write one like 90d"),
        (("create", "--name", "x", "--expires", "2020-01-01"), 78, "'2020-01-01' has passed already"),
        (("create", "--name", "x", "--concurrent", "0"), 2, "Invalid value for '--concurrent'"),
        (("rotate", "ci", "--grace", "1y"), 78, "'1y' is no time"),
        (("show", "cii"), 1, "there is no key 'cii'; did you mean 'ci'?"),
        (("revoke", "elsewhere"), 1, "there is no key 'elsewhere'; `runner-supervisor keys list --all` shows all"),
        (("import", "/nonexistent"), 78, "cannot read the key file /nonexistent"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    keys: Keys, arguments: tuple[str, ...], code: int, said: str
) -> None:
    keys.state_dir.mkdir()
    with closing(KeyStore(keys.path)) as store:
        made = store.create("ci", scopes=[Scope.INFERENCE])
        assert said in keys.fails(*arguments, code=code)
        assert store.keys(revoked=True) == [made.key]


def test_a_state_folder_that_is_not_there_is_not_made_to_look_into_it(keys: Keys) -> None:
    assert keys.ok("list") == ""
    assert keys.ok("list", "--json") == "[]\n"
    assert "there are no keys in" in keys.fails("revoke", "ci")
    assert not keys.state_dir.exists()


def test_the_shell_completes_names_of_keys_in_use(keys: Keys) -> None:
    keys.state_dir.mkdir()
    with closing(KeyStore(keys.path)) as store:
        for name in ("ci", "cd", "laptop", "cold"):
            store.create(name, scopes=[Scope.INFERENCE])
        store.revoke("cold")
        some_id = store.get("laptop").id
    script = "import sys; sys.argv[0] = 'runner-supervisor'; from runner_supervisor.cli import main; main()"

    def complete(word: str, state_dir: Path) -> set[str]:
        words = f"runner-supervisor keys revoke --state-dir {state_dir} {word}"
        asked = {"_RUNNER_SUPERVISOR_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "5"}
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, env=os.environ | asked, capture_output=True, text=True, timeout=LIMIT_S, check=False
        )
        assert done.stderr == ""
        return set(done.stdout.split())

    assert complete("c", keys.state_dir) == {"ci", "cd"}
    assert complete(some_id[:4], keys.state_dir) == {some_id}
    assert complete("c", keys.state_dir / "missing") == set()
