"""docs/methods.md is what the registry says."""

import pathlib

from xpo_jax import listing, methods

DOCUMENT = pathlib.Path(__file__).parents[1] / "docs" / "methods.md"


def test_the_document_is_fresh():
  assert DOCUMENT.read_text(encoding="utf-8") == listing.document(), (
    "docs/methods.md is stale; run: xpo methods --markdown > docs/methods.md"
  )


def test_a_row_a_method_in_both_tables():
  lines = listing.document().splitlines()
  for name in methods.names():
    rows = [line for line in lines if line.startswith(f"| {name} |")]
    assert len(rows) == 2, name
