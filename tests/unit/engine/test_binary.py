"""The builder's manifest, as the supervisor reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runner_supervisor.engine.binary import EngineBinary, read_manifest
from runner_supervisor.errors import EngineError

FIELDS = {"binary": "llama-server", "backend": "cpu", "commit": "abc", "sha256": "f00d", "more": 1}


def test_the_binary_lies_beside_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "llama-server").touch(mode=0o755)
    (tmp_path / "manifest.json").write_text(json.dumps(FIELDS))
    expected = EngineBinary(path=tmp_path / "llama-server", backend="cpu", commit="abc", sha256="f00d")
    assert read_manifest(tmp_path / "manifest.json") == expected


@pytest.mark.parametrize("text", [None, "no json", "[]", "{}", json.dumps(FIELDS)])
def test_what_cannot_be_used_is_refused_with_a_way_out(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(EngineError, match="run `runner-supervisor build`"):
        read_manifest(tmp_path / "manifest.json")
