"""What is generated is fresh, and what documents claim is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.demo_model import make
from tools.generate_docs import DOCS, DOCUMENTS

from runner_supervisor.engine.model import check_model
from runner_supervisor.planning import demo_model

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_documents_are_fresh(name: str) -> None:
    assert (DOCS / name).read_text() == DOCUMENTS[name](), "run `make docs`"


def test_the_demo_model_is_what_its_script_makes(tmp_path: Path) -> None:
    make.write(tmp_path / "demo.gguf")
    assert (tmp_path / "demo.gguf").read_bytes() == demo_model().read_bytes()
    check_model(demo_model())


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "AGENTS.md"])
def test_links_within_the_repository_lead_somewhere(document: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (REPOSITORY / document).read_text())
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []
