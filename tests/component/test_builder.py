"""The builder's command with real cmake, ninja and compiler, on a llama.cpp of one file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import filelock
import pytest
from tests.component.build_rig import CMAKE, SERVER, TIMEOUT_S, Tree
from tests.unit.builders.test_source import git

from runner_builders.manifest import sha256_of


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_a_build_is_installed_with_its_manifest_and_kept(tree: Tree) -> None:
    first = tree.build("--print-manifest")
    assert first.returncode == 0, first.stderr
    assert "compiling llama-server: 2 of 2 (100 %), 0 s left" in first.stderr
    path = Path(first.stdout.strip())
    manifest = json.loads(path.read_text())
    assert (manifest["schema"], manifest["commit"]) == (3, tree.commit)
    verified = {"version": "version: 1 (tiny)", "devices": [], "goldens": 1, "notices": []}
    assert manifest["verified"] == verified
    assert manifest["files"] == {"llama-server": sha256_of(path.parent / "llama-server")}
    assert manifest["options"]["GGML_NATIVE"] == "ON"
    assert os.access(path.parent / manifest["binary"], os.X_OK)
    assert sorted(file.name for file in path.parent.iterdir()) == ["llama-server", "manifest.json", "sbom.cdx.json"]
    assert not list((tree.cache / "compile").glob("*-*"))

    second = tree.build("--print-manifest")
    assert (second.stdout, second.stderr) == (first.stdout, "")
    assert tree.serves(path.parent)


def test_a_build_with_other_options_is_not_reused(tree: Tree) -> None:
    first = tree.build("--print-manifest")
    assert tree.build("--reuse", "--print-manifest").stdout == first.stdout
    built = Path(first.stdout.strip()).parent
    other = built.rename(built.with_name("other")) / "manifest.json"
    manifest = json.loads(other.read_text())
    other.write_text(json.dumps(manifest | {"options": manifest["options"] | {"GGML_NATIVE": "OFF"}}))
    (tree.cache / "current.json").write_text('{"key": "other"}')
    assert tree.build("--reuse", "--print-manifest").stdout == first.stdout


def test_patches_go_into_the_build_and_its_manifest_but_not_into_the_source(tree: Tree) -> None:
    plain = json.loads(Path(tree.build("--print-manifest").stdout.strip()).read_text())
    tree.patches.mkdir()
    first = SERVER.splitlines()[0]
    diff = f"--- a/main.c\n+++ b/main.c\n@@ -1,1 +1,1 @@\n-{first}\n+{first.replace('tiny', 'patched')}\n"
    (tree.patches / "0001-renamed.patch").write_text(diff)

    done = tree.build("--reuse", "--print-manifest")
    assert done.returncode == 0, done.stderr
    patched = json.loads(Path(done.stdout.strip()).read_text())
    assert (plain["verified"]["version"], plain["patches"]) == ("version: 1 (tiny)", {})
    assert patched["verified"]["version"] == "version: 1 (patched)"
    assert list(patched["patches"]) == ["0001-renamed"]
    assert (tree.source / "main.c").read_text() == SERVER


def test_a_compile_error_shows_the_compilers_words_and_leaves_the_build_in_use(tree: Tree) -> None:
    good = tree.built()
    tree.write("this is no program")
    failed = tree.build()
    assert failed.returncode == 1
    assert "main.c:1:1: error" in failed.stderr
    last = failed.stderr.splitlines()[-1]
    assert last.startswith("error: llama-server did not compile (exit code 1); the whole log is ")
    assert Path(last.rpartition(" ")[2]).exists()
    assert tree.serves(good)


NO_DEVICES = 'puts("Available devices:"); puts(DEVICES); return 0;'


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("int main() { return 7; }", "error: the new llama-server does not start"),
        (SERVER.replace(NO_DEVICES, "return 1;"), "error: the new llama-server cannot list its devices"),
        (
            SERVER.replace('ANSWER "fine"', 'ANSWER "fin"'),
            "error: the new llama-server computes wrong: to «How are you?» it said «fin», not «fine»",
        ),
        (
            SERVER.replace('"--answer", ANSWER', '"--exit-code", "5"'),
            "error: the new llama-server ended with code 5 when it should serve the demo model («0.00.000.001 E srv",
        ),
        (
            SERVER.replace('"--answer", ANSWER', '"--load-lines", "1"'),
            "error: the new llama-server did not answer a golden prompt (HTTPStatusError",
        ),
    ],
    ids=["does not start", "no devices", "computes wrong", "ends", "gives an error"],
)
def test_a_binary_that_does_not_work_is_not_installed(tree: Tree, program: str, said: str) -> None:
    good = tree.built()
    tree.write(program)
    failed = tree.build()
    assert failed.returncode == 1
    assert said in failed.stderr
    assert tree.serves(good)
    assert len(list((tree.cache / "builds").iterdir())) == 1


def test_without_golden_prompts_nothing_is_built(tree: Tree) -> None:
    command = tree.command("build", "--source", str(tree.source))
    failed = tree.run(command)
    assert failed.returncode == 1
    assert "error: nothing is installed that has not answered golden prompts; name a folder of them" in failed.stderr
    assert not tree.cache.exists()


def test_golden_prompts_for_another_model_are_refused(tree: Tree) -> None:
    (tree.goldens / "demo.gguf").write_bytes(b"GGUF of others")
    failed = tree.build()
    assert failed.returncode == 1
    assert "demo.gguf has sha256 " in failed.stderr
    (tree.goldens / "goldens.json").write_text("[]")
    assert "error: cannot read the golden prompts in" in tree.build().stderr


def test_libraries_beside_the_binary_are_part_of_the_build(tree: Tree) -> None:
    lines = "add_library(ggml SHARED ggml.c)\ntarget_link_libraries(llama-server ggml)\n"
    lines += "set_target_properties(ggml PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
    lines += "set_target_properties(llama-server PROPERTIES BUILD_RPATH $ORIGIN)\n"
    (tree.source / "CMakeLists.txt").write_text(CMAKE + lines)
    (tree.source / "ggml.c").write_text("int ggml(void) { return 1; }\n")
    tree.write(SERVER.replace("return 127", "extern int ggml(void); return ggml()"))
    built = tree.built()
    assert set(json.loads((built / "manifest.json").read_text())["files"]) == {"llama-server", "libggml.so"}
    assert tree.serves(built)


def test_another_source_folder_is_no_obstacle_to_a_build_that_was_cut_short(tree: Tree, tmp_path: Path) -> None:
    compiler = tree.folder / "cc"
    compiler.write_text('#!/bin/sh\ncase "$*" in *main.c*) exit 1;; esac\nexec cc "$@"\n')
    compiler.chmod(0o755)
    assert tree.build(CC=str(compiler)).returncode == 1
    elsewhere = tmp_path / "elsewhere"
    git(tmp_path, "clone", "--quiet", str(tree.source), str(elsewhere))
    tree.source = elsewhere
    compiler.write_text('#!/bin/sh\nexec cc "$@"\n')
    assert tree.built(CC=str(compiler))


def test_a_cache_that_cannot_be_used_is_named(tree: Tree) -> None:
    tree.cache.touch()
    failed = tree.build()
    assert failed.returncode == 1
    last = failed.stderr.splitlines()[-1]
    assert (
        last
        == f"error: cannot use the cache folder {tree.cache}: Not a directory; name another with RUNNER_CACHE_DIR"
    )


def test_a_wrong_source_folder_is_refused_even_when_nothing_is_left_to_build(tree: Tree, tmp_path: Path) -> None:
    assert tree.build().returncode == 0
    tree.source = tmp_path / "nowhere"
    failed = tree.build()
    assert failed.returncode == 1
    assert "no llama.cpp source in" in failed.stderr


def test_a_build_that_another_one_holds_up_says_so_and_then_takes_its_result(tree: Tree) -> None:
    key = json.loads(tree.build("--dry-run", "--json").stdout)["key"]
    lock = tree.cache / "compile" / f"{key}.lock"
    lock.parent.mkdir(parents=True)
    with filelock.FileLock(lock):
        process = subprocess.Popen(tree.build_command(), env=tree.environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        assert process.stderr.readline() == "another build of the same is running: waiting for it\n"
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0


def test_the_plan_alone(tree: Tree) -> None:
    text = tree.build("--dry-run")
    assert "GGML_NATIVE" in text.stdout
    plan = json.loads(tree.build("--dry-run", "--json").stdout)
    assert plan["commit"] == tree.commit
    assert all(option["reason"] for option in plan["options"])
    assert not tree.cache.exists()


def test_json_events(tree: Tree) -> None:
    events = [json.loads(line) for line in tree.build("--json").stdout.splitlines()]
    assert events[-1]["event"] == "done"
    phases = [event["phase"] for event in events if event["event"] == "phase"]
    assert phases == ["source", "configure", "compile", "verify", "install"]
    assert {"event": "step", "done": 2, "total": 2, "left_s": 0.0} in events


def test_an_unknown_backend_names_the_known_ones(tree: Tree) -> None:
    failed = tree.build("--backend", "abacus")
    assert (failed.returncode, failed.stderr) == (1, "error: unknown backend abacus; choose one of: cpu\n")
