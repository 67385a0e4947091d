"""The mutants of `mutations.py` are up to date; to run them takes minutes, and is done by hand."""

from __future__ import annotations

import ast
from collections import Counter

import pytest

from tests.mutations import MUTANTS, ROOT, SURVIVORS, TESTS, Mutant


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_place_of_its_file(mutant: Mutant) -> None:
    assert mutant.places == 1
    text = (ROOT / "fanout" / mutant.file).read_text()
    mutated = text.replace(mutant.old, mutant.new)
    assert ast.dump(ast.parse(mutated)) != ast.dump(ast.parse(text))


def test_each_name_is_given_once_and_survivors_are_among_them() -> None:
    names = Counter(mutant.name for mutant in MUTANTS)
    assert set(names.values()) == {1}
    assert SURVIVORS.keys() <= names.keys()


def test_the_tests_that_are_to_notice_exist() -> None:
    assert all((ROOT / "tests" / f"test_{name}.py").is_file() for name in TESTS)
