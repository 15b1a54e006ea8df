"""The builds there are: listed, chosen, gone back from, checked and pruned."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.component.build_rig import SERVER, Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def next_build(tree: Tree, number: int) -> Path:
    """Build another version."""
    tree.write(SERVER.replace("1 (tiny)", f"{number} (tiny)"))
    return tree.built()


def told(tree: Tree, *arguments: str) -> Any:
    """What `builds … --json` prints."""
    done = tree.run(tree.command("builds", *arguments, "--json"))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(tree: Tree, *arguments: str) -> str:
    """Why a command is refused."""
    done = tree.run(tree.command(*arguments))
    assert done.returncode == 1, done.stdout
    return done.stderr


def test_builds_are_listed_the_latest_first(tree: Tree) -> None:
    assert told(tree, "list") == []
    assert "no builds" in tree.run(tree.command("builds", "list")).stdout
    first, second = tree.built(), next_build(tree, 2)
    builds = told(tree, "list")
    assert [(build["key"], build["in_use"]) for build in builds] == [(second.name, True), (first.name, False)]
    assert builds[0]["manifest"]["commit"] == tree.commit
    assert builds[0]["size_bytes"] > (second / "llama-server").stat().st_size
    text = tree.run(tree.command("builds", "list")).stdout
    assert [line.split()[0] for line in text.splitlines()[1:]] == ["*", first.name]


def test_another_build_is_used_by_the_beginning_of_its_key(tree: Tree) -> None:
    first, second = tree.built(), next_build(tree, 2)
    assert told(tree, "use", first.name[:8]) == {"key": first.name}
    assert tree.in_use() == first
    assert "no build begins with x" in refused(tree, "builds", "use", "x")
    assert "2 builds begin with ;" in refused(tree, "builds", "use", "")
    (second / "llama-server").write_bytes(b"damaged")
    assert f"build {second.name} is damaged" in refused(tree, "builds", "use", second.name)
    assert tree.in_use() == first


def test_rollback_goes_to_the_build_that_was_used_before(tree: Tree) -> None:
    first, second, third = tree.built(), next_build(tree, 2), next_build(tree, 3)
    assert told(tree, "rollback") == {"key": second.name}
    assert told(tree, "use", third.name) == {"key": third.name}
    assert told(tree, "rollback") == {"key": second.name}
    assert told(tree, "rollback") == {"key": first.name}
    assert "no build was used before this one" in refused(tree, "builds", "rollback")
    assert tree.serves(first)


def test_prune_keeps_the_build_in_use_the_one_before_and_what_runs(tree: Tree) -> None:
    builds = [tree.built(), *(next_build(tree, number) for number in (2, 3, 4))]
    runs = builds[0] / "runs"
    runs.write_bytes(Path("/bin/sleep").read_bytes())
    runs.chmod(0o755)
    left = tree.cache / "builds" / f"new-{builds[1].name}-killed"
    left.mkdir()
    old = tree.cache / "sources" / "old"
    old.mkdir(parents=True)
    unfinished = tree.cache / "compile" / f"{builds[1].name}-00000000"
    unfinished.mkdir()
    goes = sorted(str(path) for path in (builds[1], left, old, unfinished))
    with subprocess.Popen([str(runs), "600"]) as process:
        assert told(tree, "list")[-1]["pids"] == [process.pid]
        planned = told(tree, "prune", "--dry-run")
        assert (sorted(planned["paths"]), planned["removed"]) == (goes, False)
        assert all(Path(path).exists() for path in goes)
        pruned = tree.run(tree.command("builds", "prune")).stdout.splitlines()
        process.kill()
    assert sorted(line.split()[1] for line in pruned[:-1]) == goes
    assert not any(Path(path).exists() for path in goes)
    assert told(tree, "rollback") == {"key": builds[2].name}
    assert sorted(path.name for path in (tree.cache / "builds").iterdir()) == sorted(
        build.name for build in (builds[0], *builds[2:])
    )


def test_check_finds_a_flipped_bit_and_what_nobody_built(tree: Tree) -> None:
    assert "no build is in use" in refused(tree, "build", "--check")
    built = tree.built()
    whole = tree.run(tree.command("build", "--check"))
    assert (whole.returncode, whole.stdout) == (0, f"all is as it was built, 1 files: {built / 'manifest.json'}\n")
    content = bytearray((built / "llama-server").read_bytes())
    content[-1] ^= 1
    (built / "llama-server").write_bytes(content)
    (built / "libggml-new.so").touch()
    said = refused(tree, "build", "--check")
    assert f"the build in {built} is not what was built: llama-server has sha256 " in said
    assert "libggml-new.so was not built" in said
    told_json = tree.run(tree.command("build", "--check", "--json"))
    assert (told_json.returncode, len(json.loads(told_json.stdout)["damage"])) == (1, 2)


def test_a_damaged_build_is_handed_to_who_refuses_it_and_made_again_when_that_is_asked(tree: Tree) -> None:
    built = tree.built()
    (built / "llama-server").write_bytes(b"damaged")
    assert tree.built("--reuse") == built
    assert (built / "llama-server").read_bytes() == b"damaged"
    assert tree.built() == built
    assert tree.serves(built)
