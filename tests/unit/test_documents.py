"""What is generated is fresh, and what documents claim is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tools.generate_docs import DOCS, DOCUMENTS

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_generated_documents_are_fresh(name: str) -> None:
    assert (DOCS / name).read_text() == DOCUMENTS[name](), "run `make docs`"


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "AGENTS.md"])
def test_links_within_the_repository_lead_somewhere(document: str) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", (REPOSITORY / document).read_text())
    assert [target for target in targets if not (REPOSITORY / target).exists()] == []
