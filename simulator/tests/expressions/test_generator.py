"""The generator's own meaning of Metal, and that it finds what is wrong."""

import numpy as np
import pytest
import torch

from . import known, runner
from .__main__ import programs
from .arithmetic import binary, common, operands, shift
from .generator import PRODUCTIONS, input_leaf, literal
from .operators import binary_node
from .program import Argument, Program, written
from .runner import run
from .shrink import needed, shrunk, signature
from .tree import Form, kinds, make, size, walk
from .types import BOOL, FLOATS, INT, INTEGERS, TYPES, Type, Undefined, convert, integers, memory, rounded, words

TORCH = {"half": torch.float16, "bfloat": torch.bfloat16, "float": torch.float32}


def numbers(*values):
    return integers(np.array([values], object))


@pytest.mark.parametrize("scalar", FLOATS)
def test_rounding_is_that_of_torch(scalar):
    exact = np.random.default_rng(0).standard_normal((500, 4)) * np.array([1, 1e-3, 1e3, 1e4])
    exact = exact.astype(np.float32)
    expected = torch.from_numpy(exact).to(TORCH[scalar])
    assert np.array_equal(rounded(scalar, exact).astype(np.float32), expected.float().numpy())
    whole = torch.from_numpy(memory(Type(scalar, 4), rounded(scalar, exact)))
    assert torch.equal(whole.view(TORCH[scalar]), expected)


@pytest.mark.parametrize("operator, function", [("+", torch.add), ("-", torch.sub), ("*", torch.mul), ("/", torch.div)])
@pytest.mark.parametrize("scalar", FLOATS)
def test_arithmetic_is_that_of_torch(scalar, operator, function):
    a, b = (rounded(scalar, np.random.default_rng(k).standard_normal((200, 4))) for k in (0, 1))
    ours = binary(operator, scalar, a, b)
    theirs = function(*(torch.from_numpy(x.astype(np.float32)).to(TORCH[scalar]) for x in (a, b)))
    assert np.array_equal(ours.astype(np.float32), theirs.float().numpy())


@pytest.mark.parametrize(
    "value, source, target, expected",
    [
        (300, "int", "char", 44),
        (-1, "char", "uint", 2**32 - 1),
        (200, "uchar", "char", -56),
        (2**31, "uint", "int", -(2**31)),
        (-7, "short", "long", -7),
        (-7, "int", "bool", 1),
        (1, "bool", "int", 1),
        (2049, "int", "half", 2048),
        (257, "int", "bfloat", 256),
        (-2.75, "float", "int", -2),
        (0.5, "half", "bool", 1),
        (1 / 3, "float", "half", float(np.float16(1 / 3))),
    ],
)
def test_conversions(value, source, target, expected):
    given = rounded(source, np.array([[value]])) if source in FLOATS else numbers(value)
    assert convert(given, source, target).tolist() == [[expected]]


@pytest.mark.parametrize(
    "operator, scalar, a, b, expected",
    [
        ("<", "int", -1, 1, 1),
        ("==", "uint", 3, 4, 0),
        ("/", "int", -7, 2, -3),
        ("%", "int", -7, 2, -1),
        ("-", "uint", 1, 2, 2**32 - 1),
        ("*", "ulong", 2**63, 2, 0),
        ("^", "int", -1, 5, -6),
    ],
)
def test_operators(operator, scalar, a, b, expected):
    assert binary(operator, scalar, numbers(a), numbers(b)).tolist() == [[expected]]


def test_types_in_which_operands_meet():
    assert common("char", "bool") == "int" and common("int", "uint") == "uint" and common("uint", "long") == "long"
    assert common("half", "int") == "half" and common("half", "float") == "float" and common("half", "bfloat") is None
    assert operands(Type("half", 4), Type("float")) == Type("half", 4)
    assert operands(Type("half", 4), Type("float", 4)) is None


@pytest.mark.parametrize(
    "undefined",
    [
        lambda: binary("+", "int", numbers(2**31 - 1), numbers(1)),
        lambda: binary("/", "uint", numbers(1), numbers(0)),
        lambda: binary("%", "int", numbers(-(2**31)), numbers(-1)),
        lambda: binary("/", "float", np.ones((1, 1), np.float32), np.zeros((1, 1), np.float32)),
        lambda: shift("<<", "int", numbers(1), numbers(32)),
        lambda: shift("<<", "int", numbers(-1), numbers(1)),
        lambda: shift(">>", "uint", numbers(1), numbers(-1)),
        lambda: convert(np.array([[3e9]], np.float32), "float", "int"),
        lambda: convert(numbers(70000), "int", "half"),
        lambda: rounded("float", np.array([[1e-40]])),
    ],
)
def test_what_is_undefined_is_not_computed(undefined):
    with pytest.raises(Undefined):
        undefined()


def test_a_product_that_may_be_fused_must_be_exact():
    float_ = Type("float")
    exact = binary_node("*", literal(float_, [1.5]), literal(float_, [2.5]))
    inexact = binary_node("*", input_leaf(float_, 0), input_leaf(float_, 0))
    binary_node("+", exact, literal(float_, [1]))
    binary_node("*", inexact, literal(float_, [1]))
    with pytest.raises(Undefined):
        binary_node("-", literal(float_, [1]), make(Form("parentheses", "($0)", lambda a: a.value), float_, (inexact,)))


def test_the_same_seed_gives_the_same_programs():
    first, again, other = (programs(seed, 0, 20, known.nothing_is_known) for seed in ("x", "x", "y"))
    assert [p.text for p in first] == [p.text for p in again] != [p.text for p in other]
    assert first[7].text == programs("x", 7, 1, known.nothing_is_known)[0].text


def test_every_production_is_used():
    """With all operand types and contexts; and fault kinds are avoided, when they are to be."""
    made = programs("kinds", 0, 1500, known.nothing_is_known)
    used = frozenset().union(*(kinds(p.tree) for p in made))
    assert len(PRODUCTIONS) < len(used)
    operators = {f"binary {operator}" for operator in "+ - * / % & | ^ << >>".split()}
    contexts = (
        "subscript, braces, if, for, while, do, switch, ternary, auto, declarators, template argument, macro, alias, "
        "default argument, function, function as template argument, struct-returning function, comparison of vectors, "
        "select, sizeof, overload, compound assignment, swizzle, swizzle assignment, element, constant table, name"
    )
    assert used >= operators | set(contexts.split(", "))
    assert {p.type for p in made} == set(TYPES)
    avoiding = programs("kinds", 0, 300, known.is_known_fault)
    assert not any(known.is_known_fault(node) for p in avoiding for _, node in walk(p.tree))


def _small(expression: str, expected: int, top: str = "") -> Program:
    text = f"{top}\nstatic inline int PROGRAM(int a) {{\n  return {expression};\n}}"
    return Program(text, INT, (Argument("a", INT, input_leaf(INT, 0).value),), integers(np.full((6, 1), expected)))


_BARRIER = """static inline int barrier(int a) {
  if (a > 4) threadgroup_barrier(mem_flags::mem_none);
  return 0;
}"""


def test_each_program_gets_its_own_outcome():
    made = [
        _small("a - a", 0),
        _small("a - a", 1),
        _small("nonsense", 0),
        _small("barrier(a)", 0, _BARRIER),
        _small("7", 7),
    ]
    outcomes = run(made)
    assert [o.kind for o in outcomes] == ["right", "differs", "refused", "failed", "right"]
    assert outcomes[1].found.tolist() == [[0, 0]] * 6 and "nonsense" in outcomes[2].message


def test_a_lost_kernel_is_noticed(monkeypatch):
    class Library(runner.Library):
        kernels = ("after",)

    monkeypatch.setattr(runner, "Library", Library)
    assert run([_small("7", 7)])[0].kind == "lost"


def test_what_fails_becomes_small():
    """A node with a meaning that it does not have, deep in a program."""
    wrong = make(Form("wrong", "($0 + 1)", lambda a: a.value + 2), INT, (input_leaf(INT, 0),))
    tree = binary_node("&", wrong, literal(INT, [15]))
    for number in (3, 5):
        declared = Form("declaration", "$v", lambda a: a.value, before="int $v = $0;", names=("vec",))
        tree = binary_node("^", make(declared, INT, (tree,)), literal(INT, [number]))
    program = written(tree)
    outcome = run([program])[0]
    small, found = shrunk(program, outcome, known.nothing_is_known)
    assert size(small.tree) == 2 and small.tree.kind == "wrong" and signature(found) == signature(outcome)


def test_what_fails_only_beside_another_program():
    made = [_small("1", 1, "struct Same { int x; };"), _small("2", 2), _small("3", 3), _small("4", 4)]
    last = _small("5", 5, "struct Same { int x; };")
    outcome = run([*made, last])[-1]
    assert outcome.kind == "refused" and run([last])[0].kind == "right"
    assert needed(last, made, signature(outcome)) == [made[0]]


def test_words_of_a_long():
    assert words(Type("long"), numbers(-2)).tolist() == [[2**32 - 2, 2**32 - 1]]
    assert words(BOOL, numbers(1)).tolist() == [[1, 0]] and set(INTEGERS) < {t.scalar for t in TYPES}
