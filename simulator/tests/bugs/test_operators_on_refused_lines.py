"""A function of an operator is no name that is a keyword, also on a line that clang refuses for something else."""

import pytest

OPERATORS = ["operator=", "operator+", "operator()", "operator[]"]


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_with_an_unknown_type(written, operator):
    library = written(f"struct Row {{\n  thread Row& {operator}(nowhere x) thread;\n}};\n")
    found = [d.message for d in library.check() if d.severity == "error"]
    assert found == ["unknown type name 'nowhere'"]
