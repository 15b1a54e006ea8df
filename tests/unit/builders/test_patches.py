"""Our patches to llama.cpp: read in order, applied whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner_builders.errors import SourceError
from runner_builders.patches import Patch, apply, read_patches


def change(before: str, after: str) -> bytes:
    """A diff of one line in code.c."""
    return f"Why.\n\n--- a/code.c\n+++ b/code.c\n@@ -1,3 +1,3 @@\n top\n-{before}\n+{after}\n bottom\n".encode()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "code.c").write_text("top\none\nbottom\n")
    return tmp_path


def test_patches_are_applied_in_the_order_of_their_names(tree: Path) -> None:
    (tree / "0002-later.patch").write_bytes(change("two", "three"))
    (tree / "0001-first.patch").write_bytes(change("one", "two"))
    patches = read_patches(tree)
    assert [patch.name for patch in patches] == ["0001-first", "0002-later"]
    apply(patches, tree)
    assert (tree / "code.c").read_text() == "top\nthree\nbottom\n"


@pytest.mark.parametrize(
    "diff",
    [change("something else", "two"), change("one", "two").replace(b"code.c", b"gone.c"), b"no diff at all"],
    ids=["another text", "no such file", "no diff"],
)
def test_a_patch_that_does_not_fit_is_named(tree: Path, diff: bytes) -> None:
    with pytest.raises(SourceError, match="the patch 0001-first does not fit"):
        apply((Patch("0001-first", diff),), tree)
    assert (tree / "code.c").read_text() == "top\none\nbottom\n"
