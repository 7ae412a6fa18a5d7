import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synthgrad.experiments.toml import to_toml

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
SIMPLE = TEXTS | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False)
VALUES = SIMPLE | st.lists(SIMPLE, max_size=4)


@given(st.dictionaries(TEXTS, VALUES | st.dictionaries(TEXTS, VALUES, max_size=4), max_size=5))
def test_what_is_written_reads_back_the_same(table: dict[str, Any]) -> None:
    assert tomllib.loads(to_toml(table)) == table


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="expected a text"):
        to_toml({"x": None})
