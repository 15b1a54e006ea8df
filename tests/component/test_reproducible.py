"""The same plan gives the same bytes, in whatever folders, whenever, and says what they were made of."""

from __future__ import annotations

import json
from pathlib import Path

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from tests.component.build_rig import SERVER, Tree
from tests.unit.builders.test_source import git


def test_two_builds_in_different_folders_are_equal(tmp_path: Path) -> None:
    builds = []
    for name in ("one", "quite-another"):
        folder = tmp_path / name
        folder.mkdir()
        tree = Tree(folder)
        if builds:  # the same commit elsewhere
            tree.source = folder / "clone"
            git(folder, "clone", "--quiet", str(tmp_path / "one" / "source"), str(tree.source))
            tree.commit = git(tree.source, "rev-parse", "HEAD")
        builds.append(tree.built(CFLAGS=f"-DFOLDER={name}", CCACHE_DISABLE="1"))
    one, another = builds
    assert one.name == another.name
    for name in ("llama-server", "sbom.cdx.json"):
        assert (one / name).read_bytes() == (another / name).read_bytes()
    binary = (one / "llama-server").read_bytes()
    assert b"main.c" in binary
    assert b"Jan  1 2000" in binary
    assert str(tmp_path / "one" / "cache").encode() not in binary


def test_the_bill_of_materials_is_valid_and_names_what_went_in(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    vendored = {
        "vendor/cpp-httplib/httplib.h": '#define CPPHTTPLIB_VERSION "0.58.0"\n',
        "vendor/hash/sha1.h": "",
        "vendor/nlohmann/json.hpp": "".join(
            f"#define NLOHMANN_JSON_VERSION_{part} {number}   // NOLINT\n"
            for part, number in (("MAJOR", 3), ("MINOR", 12), ("PATCH", 0))
        ),
        "ggml/CMakeLists.txt": "set(GGML_VERSION_MAJOR 0)\nset(GGML_VERSION_MINOR 25)\nset(GGML_VERSION_PATCH 3)\n",
    }
    for name, text in vendored.items():
        (tree.source / name).parent.mkdir(parents=True)
        (tree.source / name).write_text(text)
    tree.write(SERVER)
    tree.patches.mkdir()
    diff = '--- a/main.c\n+++ b/main.c\n@@ -3,1 +3,1 @@\n-#define ANSWER "fine"\n+#define ANSWER "" "fine"\n'
    (tree.patches / "0001-two-strings.patch").write_text(diff)
    built = tree.built()

    text = (built / "sbom.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    manifest = json.loads((built / "manifest.json").read_text())
    product = bill["metadata"]["component"]
    assert product["components"][0]["hashes"] == [{"alg": "SHA-256", "content": manifest["files"]["llama-server"]}]
    versions = {part["name"]: part.get("version") for part in bill["components"]}
    assert versions == {
        "llama.cpp": tree.commit,
        "ggml": "0.25.3",
        "cpp-httplib": "0.58.0",
        "hash": None,
        "nlohmann": "3.12.0",
    }
    upstream = next(part for part in bill["components"] if part["name"] == "llama.cpp")
    assert upstream["pedigree"]["patches"][0]["diff"]["text"]["content"] == diff
    assert bill["metadata"]["tools"]["components"][0]["name"] == manifest["compiler"]
