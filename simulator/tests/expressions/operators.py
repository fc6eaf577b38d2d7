"""Productions: operators, casts, constructors, components, and a few functions of Metal."""

from __future__ import annotations

import numpy as np

from .arithmetic import COMPARISONS, binary, common, converted, converts, in_range, is_exact_product, operands, promoted
from .arithmetic import shift as shifted
from .generator import Generator, Inapplicable, literal, production
from .tree import (
    AND,
    ASSIGNMENT,
    BIT_AND,
    BIT_OR,
    COMMA,
    EQUALITY,
    OR,
    POSTFIX,
    PRODUCT,
    RELATION,
    SHIFT,
    SUM,
    TERNARY,
    UNARY,
    XOR,
    Form,
    Node,
    make,
)
from .types import BOOL, FLOATS, INT, INTEGERS, SCALARS, TYPES, Type, Undefined, integers, rounded

PRECEDENCE = {"*": PRODUCT, "/": PRODUCT, "%": PRODUCT, "+": SUM, "-": SUM, "&": BIT_AND, "^": XOR, "|": BIT_OR}
PRECEDENCE |= {"<<": SHIFT, ">>": SHIFT, "&&": AND, "||": OR}
PRECEDENCE |= {operator: EQUALITY if operator in ("==", "!=") else RELATION for operator in COMPARISONS}


def binary_node(operator: str, left: Node, right: Node) -> Node:
    met = operands(left.type, right.type)
    if met is None:
        raise Inapplicable
    compares = operator in COMPARISONS

    def evaluate(a, b):
        x, y = converted(a.value, a.type, met), converted(b.value, b.type, met)
        if operator in "+-" and met.is_float:
            refuse_fused(a, b)
        return binary(operator, met.scalar, x, y)

    level = PRECEDENCE[operator]
    kind = f"comparison of {'vectors' if met.size > 1 else 'scalars'}" if compares else f"binary {operator}"
    if left.type.size != right.type.size:
        kind += " with a scalar"
    form = Form(kind, f"$0 {operator} $1", evaluate, (level, level + 1), level)
    return make(form, Type("bool", met.size) if compares else met, (left, right))


def refuse_fused(*terms: Node) -> None:
    """A product that is added may be rounded or not: only one that needs no rounding has one meaning."""
    for term in terms:
        while term.kind in ("parentheses", "unary -", "unary +", "comma", "macro", "cast to its own type"):
            term = term.body or term.parts[-1]
        if term.kind == "binary *" and term.type.is_float:
            a, b = (converted(p.value, p.type, term.type) for p in term.parts)
            if not is_exact_product(term.type.scalar, a, b):
                raise Undefined("may be fused")


@production(2, constant=True)
def parentheses(g: Generator, type: Type, depth: int) -> Node:
    return make(Form("parentheses", "($0)", lambda a: a.value, (COMMA,)), type, (g.expression(type, depth + 1),))


@production(14, constant=True)
def unary(g: Generator, type: Type, depth: int) -> Node:
    if type == BOOL:
        part = g.expression(Type(g.scalar()), depth)
        return make(Form("unary !", "!$0", lambda a: integers(a.value == 0), (UNARY,), UNARY), type, (part,))
    if type.scalar == "bool":
        part = g.expression(type, depth)
        return make(Form("unary ! of a vector", "!$0", lambda a: 1 - a.value, (UNARY,), UNARY), type, (part,))
    operator = g.choice("-+" if type.is_float else "-+~")
    if type.size == 1:
        part = g.expression(Type(g.choice([s for s in SCALARS if promoted(s) == type.scalar])), depth)
    else:
        part = g.expression(type, depth)

    def evaluate(a):
        value = converted(a.value, a.type, type)
        if operator == "+":
            return value
        if type.is_float:
            return -value
        return in_range(type.scalar, -value if operator == "-" else -1 - value)

    return make(Form(f"unary {operator}", f"{operator}$0", evaluate, (UNARY,), UNARY), type, (part,))


def operand_pair(g: Generator, type: Type, depth: int) -> tuple[Node, Node]:
    """Two operands that meet in `type`."""
    if type.size == 1:
        pairs = [(a, b) for a in SCALARS for b in SCALARS if common(a, b) == type.scalar]
        a, b = (type.scalar,) * 2 if g.chance(0.5) and (type.scalar,) * 2 in pairs else g.choice(pairs)
        return g.expression(Type(a), depth), g.expression(Type(b), depth)
    pair = [g.expression(type, depth), g.expression(type, depth)]
    if g.chance(0.3):
        own = Type(type.scalar)
        others = [s for s in SCALARS if converts(s, type.scalar) and (type.is_float or s in INTEGERS)]
        scalar = own if g.chance(0.7) else Type(g.choice(others))
        pair[g.choice((0, 1))] = g.expression(scalar, depth)
    return pair[0], pair[1]


@production(30, constant=True)
def arithmetic(g: Generator, type: Type, depth: int) -> Node:
    if type.scalar == "bool":
        raise Inapplicable
    operator = g.choice("+-*/" if type.is_float else "+-*/%&|^")
    left, right = operand_pair(g, type, depth)
    if operator in "/%" and (right.value == 0).any():
        if right.type.is_float:
            raise Inapplicable
        right = binary_node("|", right, literal(Type(right.type.scalar), [1]))
    return binary_node(operator, left, right)


@production(60, constant=True)
def comparison(g: Generator, type: Type, depth: int) -> Node:
    if type.scalar != "bool":
        raise Inapplicable
    scalar = g.scalar()
    operator = g.choice(("==", "!=") if scalar == "bool" and type.size > 1 else list(COMPARISONS))
    return binary_node(operator, *operand_pair(g, Type(scalar, type.size), depth))


@production(20, constant=True)
def logical(g: Generator, type: Type, depth: int) -> Node:
    if type.scalar != "bool":
        raise Inapplicable
    operator = g.choice(("&&", "||"))
    scalars = (BOOL, BOOL) if g.chance(0.7) else (Type(g.scalar()), Type(g.scalar()))
    parts = tuple(g.expression(t, depth) for t in (scalars if type.size == 1 else (type, type)))
    function = np.logical_and if operator == "&&" else np.logical_or
    level = PRECEDENCE[operator]
    kind = f"logical {operator}" + (" of vectors" if type.size > 1 else "")
    form = Form(
        kind,
        f"$0 {operator} $1",
        lambda a, b: integers(function(a.value != 0, b.value != 0)),
        (level, level + 1),
        level,
    )
    return make(form, type, parts)


@production(14, constant=True)
def shift(g: Generator, type: Type, depth: int) -> Node:
    if not type.is_integer:
        raise Inapplicable
    operator = g.choice(("<<", ">>"))
    if type.size == 1:
        left = g.expression(Type(g.choice([s for s in SCALARS if promoted(s) == type.scalar])), depth)
        right = g.expression(BOOL if g.chance(0.3) else Type(g.choice(INTEGERS)), depth)
    else:
        left = g.expression(type, depth)
        right = g.expression(g.choice((type, Type(type.scalar))), depth)
    if not ((right.value >= 0) & (right.value < SCALARS[type.scalar].bits)).all():
        right = binary_node("&", right, literal(Type(right.type.scalar), [3]))

    def evaluate(a, b):
        return shifted(
            operator, type.scalar, converted(a.value, a.type, type), b.value + 0 * np.zeros((1, type.size), int)
        )

    kind = f"binary {operator}" + (" with a scalar" if left.type.size != right.type.size else "")
    return make(Form(kind, f"$0 {operator} $1", evaluate, (SHIFT, SUM), SHIFT), type, (left, right))


@production(24, constant=True)
def cast(g: Generator, type: Type, depth: int) -> Node:
    not_half = {"half": "bfloat", "bfloat": "half"}.get(type.scalar)
    scalar = g.choice([s for s in SCALARS if s != not_half])
    part = g.expression(Type(scalar, 1 if type.size > 1 and g.chance(0.25) else type.size), depth)
    text, needs, level = g.choice(
        (
            (f"({type})$0", UNARY, UNARY),
            (f"({type})$0", UNARY, UNARY),
            (f"{type}($0)", ASSIGNMENT, POSTFIX),
            (f"static_cast<{type}>($0)", COMMA, POSTFIX),
        )
    )
    kind = "C cast" if level == UNARY else "static_cast" if "static" in text else "conversion"
    kind = "cast to its own type" if part.type == type and type.is_float else kind
    if part.type.size != type.size:
        kind += " of a scalar to a vector"
    return make(Form(kind, text, lambda a: converted(a.value, a.type, type), (needs,), level), type, (part,))


@production(14)
def constructor(g: Generator, type: Type, depth: int) -> Node:
    if type.size == 1:
        raise Inapplicable
    sizes = []
    while sum(sizes) < type.size:
        sizes.append(g.choice([n for n in (1, 1, 2, 3) if sum(sizes) + n <= type.size and n < type.size]))
    braces = g.chance(0.2)
    if braces:
        sizes = [1] * type.size
    parts = []
    for n in sizes:
        other = g.choice([s for s in SCALARS if converts(s, type.scalar)])
        scalar = other if n == 1 and not braces and g.chance(0.3) else type.scalar
        parts.append(g.expression(Type(scalar, n), depth))

    def evaluate(*given):
        return np.concatenate([converted(p.value, p.type, Type(type.scalar, p.type.size)) for p in given], 1)

    inside = ", ".join(f"${i}" for i in range(len(parts)))
    text = f"{type}{{{inside}}}" if braces else f"{type}({inside})"
    return make(Form("braces" if braces else "constructor", text, evaluate), type, tuple(parts))


@production(16)
def swizzle(g: Generator, type: Type, depth: int) -> Node:
    size = g.choice((2, 3, 4))
    chosen = [g.random.randrange(size) for _ in range(type.size)]
    letters = g.choice(("xyzw", "xyzw", "rgba"))
    part = (comparison if type == BOOL and g.chance(0.5) else Generator.expression)(g, Type(type.scalar, size), depth)
    kind = "component" if type.size == 1 else "swizzle of bool" if type.scalar == "bool" else "swizzle"
    text = "$0." + "".join(letters[k] for k in chosen)
    return make(Form(kind, text, lambda a: a.value[:, chosen], (POSTFIX,)), type, (part,))


@production(10, constant=True)
def ternary(g: Generator, type: Type, depth: int) -> Node:
    condition = g.expression(BOOL if g.chance(0.7) else Type(g.scalar()), depth)
    sides = (type, type)
    if type.size == 1 and g.chance(0.3):
        pairs = [(a, b) for a in SCALARS for b in SCALARS if a != b and common(a, b) == type.scalar]
        sides = tuple(Type(s) for s in g.choice(pairs))
    parts = (condition, *(g.expression(side, depth) for side in sides))

    def evaluate(c, a, b):
        return np.where(c.value != 0, converted(a.value, a.type, type), converted(b.value, b.type, type))

    return make(Form("ternary", "$0 ? $1 : $2", evaluate, (OR, ASSIGNMENT, TERNARY), TERNARY), type, parts)


@production(5)
def select(g: Generator, type: Type, depth: int) -> Node:
    if type.scalar in ("bool", "bfloat"):
        raise Inapplicable
    parts = tuple(g.expression(t, depth) for t in (type, type, Type("bool", type.size)))
    form = Form("select", "select($0, $1, $2)", lambda a, b, c: np.where(c.value != 0, b.value, a.value))
    return make(form, type, parts)


@production(8)
def any_all(g: Generator, type: Type, depth: int) -> Node:
    if type != BOOL:
        raise Inapplicable
    name = g.choice(("any", "all"))
    part = g.expression(g.vector("bool"), depth)
    function = {"any": np.any, "all": np.all}[name]
    return make(Form(name, f"{name}($0)", lambda a: integers(function(a.value, 1, keepdims=True))), type, (part,))


@production(4)
def integer_function(g: Generator, type: Type, depth: int) -> Node:
    if not type.is_integer:
        raise Inapplicable
    name = g.choice(("min", "max"))
    parts = (g.expression(type, depth), g.expression(type, depth))
    function = np.minimum if name == "min" else np.maximum
    return make(Form("min, max", f"{name}($0, $1)", lambda a, b: function(a.value, b.value)), type, parts)


@production(4)
def as_type(g: Generator, type: Type, depth: int) -> Node:
    if type.scalar not in ("int", "uint", "float", "short", "ushort", "half", "char", "uchar"):
        raise Inapplicable
    same = [s for s in ("char", "uchar", "short", "ushort", "half", "int", "uint", "float") if s != type.scalar]
    source = Type(g.choice([s for s in same if SCALARS[s].bits == SCALARS[type.scalar].bits]), type.size)

    def raw(scalar):
        kind, bits = SCALARS[scalar]
        return {"signed": "i", "unsigned": "u", "float": "f"}[kind] + str(bits // 8)

    def evaluate(a):
        bits = np.ascontiguousarray(a.value.astype(raw(source.scalar))).view(raw(type.scalar))
        return rounded(type.scalar, bits) if type.scalar in FLOATS else integers(bits)

    return make(Form("as_type", f"as_type<{type}>($0)", evaluate), type, (g.expression(source, depth),))


@production(3, constant=True)
def comma(g: Generator, type: Type, depth: int) -> Node:
    parts = (g.expression(g.choice(TYPES), depth), g.expression(type, depth))
    return make(Form("comma", "($0, $1)", lambda a, b: b.value), type, parts)


@production(12)
def of_its_type(g: Generator, type: Type, depth: int) -> Node:
    """What depends on the type of an expression alone: its size, and which overload takes it."""
    part = g.expression(g.choice(TYPES), depth)
    if type == Type("ulong"):
        form = Form("sizeof", "sizeof($0)", lambda a: integers(np.full((len(a.value), 1), a.type.bytes)), (COMMA,))
    elif type == INT:
        number = TYPES.index(part.type)
        form = Form("overload", "which($0)", lambda a: integers(np.full((len(a.value), 1), number)))
    else:
        raise Inapplicable
    return make(form, type, (part,))
