"""Productions: contexts that need statements before the expression: variables, assignments, conditions, loops."""

from __future__ import annotations

import numpy as np

from .arithmetic import binary, converted, converts, in_range, operands
from .arithmetic import shift as shifted
from .generator import Generator, Inapplicable, literal, production
from .operators import binary_node, comparison, refuse_fused
from .tree import COMMA, UNARY, Form, Node, make
from .types import BOOL, INT, INTEGERS, SCALARS, TYPES, Type, Undefined


def source(g: Generator, type: Type, depth: int) -> Node:
    """What a variable of `type` can be set to."""
    if g.chance(0.7):
        return g.expression(type, depth)
    scalars = [s for s in SCALARS if converts(s, type.scalar)]
    return g.expression(Type(g.choice(scalars)), depth)


def index_below(g: Generator, count: int, depth: int) -> Node:
    """An index of any integer type, bool included; `count` is a power of two."""
    index = g.expression(BOOL if g.chance(0.4) else Type(g.choice(("bool", *INTEGERS))), depth)
    if ((index.value >= 0) & (index.value < count)).all():
        return index
    return binary_node("&", index, literal(INT, [count - 1]))


def pick(values: np.ndarray, index: Node) -> np.ndarray:
    """values[lane, index[lane]]"""
    return values[np.arange(len(values)), places(index, values.shape[1])]


def places(index: Node, count: int) -> np.ndarray:
    if (index.value < 0).any() or (index.value >= count).any():
        raise Undefined("out of bounds")
    return index.value[:, 0].astype(int)


def refuse_declarator(part: Node) -> None:
    """`int v(int(x));` declares a function."""
    if part.form.text.startswith((f"{part.type}(", "$v(")):
        raise Undefined("declares a function")


@production(12)
def declaration(g: Generator, type: Type, depth: int) -> Node:
    style = g.choice(("$T $v = $0", "$T $v($0)", "$T $v{$0}", "auto $v = $0", "$T $v; $v = $0", "auto $v($0)"))
    const = "const " if g.chance(0.3) and ";" not in style else ""
    part = source(g, type, depth) if style in ("$T $v = $0", "$T $v; $v = $0") else g.expression(type, depth)
    before = f"{const}{style};".replace("$T", str(type))
    kind = _declaration_kind(style)

    def evaluate(a):
        if "(" in kind:
            refuse_declarator(a)
        return converted(a.value, a.type, type)

    form = Form(kind, "$v", evaluate, before=before, names=(g.name(),))
    return make(form, type, (part,))


def _declaration_kind(style: str) -> str:
    auto = "auto" if style.startswith("auto") else "declaration"
    return auto + (" ()" if "(" in style else " {}" if "{" in style else "")


@production(10)
def declarators(g: Generator, type: Type, depth: int) -> Node:
    """Several in one declaration; each refers to those before it."""
    before, text = g.choice(
        (
            ("$T $v = $0, $w = $1;", "$v"),
            ("$T $v = $0, $w = $1;", "$w"),
            ("$T $v($0), $w($1);", "$w"),
            ("$T $v = $0, $w{$1};", "$w"),
            ("$T $w[2] = {$0, $1}, $v = $w[1];", "$v"),
            ("$T $v = $1, $w[2] = {$0, $v};", "$w[1]"),
            ("$T $v, $w = $1; $v = $0;", "$w"),
            ("const $T $v = $0, $w = $1;", "$w"),
            ("auto $v = $0, $w = $1;", "$w"),
            ("$T $v = $0; for ($T $w = $1, $v$n = $w; ;) { $v = $v$n; break; }", "$v"),
        )
    )
    second = text != "$v" or "$w[1]" in before or "for" in before
    plain = all(c not in before for c in "({") and "auto" not in before
    parts = tuple(source(g, type, depth) if plain else g.expression(type, depth) for _ in range(2))

    def evaluate(a, b):
        for part, value in (("$v($0)", a), ("$w($1)", b)):
            if part in before:
                refuse_declarator(value)
        chosen = b if second else a
        return converted(chosen.value, chosen.type, type)

    before = before.replace("$v$n", "u$n").replace("$T", str(type))
    form = Form("declarators", text, evaluate, before=before, names=(g.name(), g.name()))
    return make(form, type, parts)


@production(12)
def subscript(g: Generator, type: Type, depth: int) -> Node:
    count = g.choice((2, 2, 4))
    parts = [g.expression(type, depth) for _ in range(count)]
    inside = ", ".join(f"${i}" for i in range(count))
    style = g.choice(("$v[I]", "$v[I]", "*($v + I)", "(&$v[0])[I]"))
    form = Form(
        "subscript" if style == "$v[I]" else "subscript of a pointer",
        style.replace("I", f"${count}"),
        lambda *p: pick(np.stack([q.value for q in p[:-1]], 1), p[-1]),
        (1,) * count + (12 if "+" in style else COMMA,),
        UNARY if style[0] == "*" else 14,
        before=f"{type} $v[{g.choice(('', str(count)))}] = {{{inside}}};",
        names=(g.name(),),
    )
    return make(form, type, (*parts, index_below(g, count, depth)))


@production(8)
def element(g: Generator, type: Type, depth: int) -> Node:
    """v[i] of a vector."""
    if type.size > 1:
        raise Inapplicable
    size = g.choice((2, 4))
    vector = (comparison if type == BOOL and g.chance(0.5) else Generator.expression)(g, Type(type.scalar, size), depth)
    parts = (vector, index_below(g, size, depth))
    form = Form("element", "$0[$1]", lambda v, i: pick(v.value, i)[:, None], (14, COMMA))
    return make(form, type, parts)


@production(8)
def component_assignment(g: Generator, type: Type, depth: int) -> Node:
    """v.x = e, v.zy = e, v[i] = e"""
    if type.size == 1:
        raise Inapplicable
    own = Type(type.scalar)
    vector = g.expression(type, depth)
    if g.chance(0.3) and type.size != 3:
        parts = (vector, index_below(g, type.size, depth), source(g, own, depth))
        target, kind = "$v[$1] = $2", "element assignment"
    else:
        count = g.choice((1, 1, 2))
        chosen = g.random.sample(range(type.size), count)
        parts = (vector, g.expression(Type(type.scalar, count), depth))
        letters = g.choice(("xyzw", "rgba"))
        target = f"$v.{''.join(letters[k] for k in chosen)} = $1"
        kind = "component assignment" if count == 1 else "swizzle assignment"
        kind += " of bool" if count > 1 and type.scalar == "bool" else ""

    def evaluate(v, *rest):
        values = v.value.copy()
        if kind == "element assignment":
            lanes = np.arange(len(values))
            values[lanes, places(rest[0], type.size)] = converted(rest[1].value, rest[1].type, own)[:, 0]
        else:
            values[:, chosen] = rest[0].value
        return values

    form = Form(kind, "$v", evaluate, (1, COMMA), before=f"{type} $v = $0; {target};", names=(g.name(),))
    return make(form, type, parts)


@production(10)
def compound_assignment(g: Generator, type: Type, depth: int) -> Node:
    """v += e, also of a component or an element of an array"""
    if type.scalar == "bool":
        raise Inapplicable
    operator = g.choice("+-*/" if type.is_float else ("+", "-", "*", "&", "|", "^", "<<", ">>"))
    where = g.choice(("", "", "[1]") + ((".x", ".yx") if type.size > 1 else ()))
    size = {".x": 1, ".yx": 2}.get(where, type.size)
    target = Type(type.scalar, size)
    first, second = g.expression(type, depth), None
    if size == 1:
        scalars = [
            s for s in SCALARS if operands(target, Type(s)) and converts(operands(target, Type(s)).scalar, type.scalar)
        ]
        scalars = (
            [s for s in scalars if s in ("bool", *INTEGERS)] if operator in ("&", "|", "^", "<<", ">>") else scalars
        )
        second = g.expression(Type(g.choice(scalars)) if g.chance(0.5) else target, depth)
    else:
        second = g.expression(g.choice((target, Type(type.scalar))), depth)
    if operator in ("<<", ">>"):
        second = binary_node("&", second, literal(INT if size == 1 else Type(type.scalar), [3]))

    def evaluate(v, e):
        part = {".x": [0], ".yx": [1, 0]}.get(where, slice(None))
        left = v.value[:, part]
        if operator in ("<<", ">>"):
            wide = operands(target, INT).scalar if size == 1 else type.scalar
            result, wide = shifted(operator, wide, left, e.value + 0 * left), Type(wide, size)
        else:
            wide = operands(target, e.type)
            if operator in "+-" and wide.is_float:
                refuse_fused(e)
            x, y = converted(left, target, wide), converted(e.value, e.type, wide)
            result = binary(operator, wide.scalar, x, y)
        values = v.value.copy()
        values[:, part] = converted(result, wide, target)
        return values

    if where == "[1]":
        before = f"{type} $v[2] = {{$0, $0}}; $v[1] {operator}= $1;"
        text = "$v[1]"
    else:
        before, text = f"{type} $v = $0; $v{where} {operator}= $1;", "$v"
    form = Form(
        "compound assignment" + (" of components" if "." in where else ""),
        text,
        evaluate,
        before=before,
        names=(g.name(),),
    )
    return make(form, type, (first, second))


@production(5)
def increment(g: Generator, type: Type, depth: int) -> Node:
    if not type.is_integer:
        raise Inapplicable
    operator, change = g.choice((("++", 1), ("--", -1)))
    prefix, old = g.chance(0.5), g.chance(0.5)
    step = f"{operator}$v" if prefix else f"$v{operator}"

    def evaluate(a):
        changed = in_range(type.scalar, a.value + change)
        return a.value if old and not prefix else changed

    before = f"{type} $v = $0; {f'{type} $w = {step};' if old else f'{step};'}"
    return make(
        Form("increment", "$w" if old else "$v", evaluate, before=before, names=(g.name(), g.name())),
        type,
        (g.expression(type, depth),),
    )


@production(14)
def condition(g: Generator, type: Type, depth: int) -> Node:
    before, needs = g.choice(
        (
            ("$T $v = $1; if ($0) $v = $2;", True),
            ("$T $v = $1; if ($0) { $v = $2; }", True),
            ("$T $v; if ($0) $v = $2; else $v = $1;", True),
            ("$T $v; if (!($0)) { $v = $1; } else { $v = $2; }", True),
            ("$T $v = $1; for (uint $w = 0; $w < 2 && ($0); $w++) $v = $2;", True),
            ("$T $v = $1; while ($0) { $v = $2; break; }", True),
            ("$T $v = $1; int $w = 0; do { if ($w > 0) $v = $2; } while ($w++ < 1 && ($0));", True),
            ("$T $v = $1; switch ($0) { case 0: break; default: $v = $2; }", False),
            ("$T $v; switch ($0) { case 0: { $v = $1; break; } default: $v = $2; break; }", False),
        )
    )
    scalar = g.scalar() if needs and g.chance(0.4) else g.choice(("bool", *INTEGERS))
    test = g.expression(BOOL if g.chance(0.6) else Type(scalar), depth)
    parts = (test, source(g, type, depth), source(g, type, depth))

    def evaluate(c, a, b):
        return np.where(c.value != 0, converted(b.value, b.type, type), converted(a.value, a.type, type))

    word = next(w for w in ("for", "do", "while", "switch", "if") if f"{w} " in before)
    form = Form(word, "$v", evaluate, (COMMA,), before=before.replace("$T", str(type)), names=(g.name(), g.name()))
    return make(form, type, parts)


@production(5)
def pointer(g: Generator, type: Type, depth: int) -> Node:
    before, text = g.choice(
        (
            ("$T $v = $0; thread $T* $w = &$v;", "*$w"),
            ("$T $v = $0; thread const $T* $w = &$v;", "$w[0]"),
            ("$T $v; thread $T& $w = $v; $w = $0;", "$v"),
            ("$T $v = $0; const thread $T& $w = $v;", "$w"),
            ("$T $v[2] = {$0, $0}; thread $T* $w = $v; ++$w;", "*$w"),
        )
    )
    form = Form(
        "pointer", text, lambda a: a.value, precedence=UNARY if text[0] == "*" else 14,
        before=before.replace("$T", str(type)), names=(g.name(), g.name()),
    )  # fmt: skip
    return make(form, type, (g.expression(type, depth),))


@production(5)
def alias(g: Generator, type: Type, depth: int) -> Node:
    """A name for a type, and a cast to it."""
    declared = g.choice((f"using $v = {type};", f"typedef {type} $v;"))
    part = g.expression(
        g.choice([t for t in TYPES if t.size == type.size and {t.scalar, type.scalar} != {"half", "bfloat"}]), depth
    )
    text, needs, level = g.choice((("($v)$0", UNARY, UNARY), ("$v($0)", 1, 14), ("static_cast<$v>($0)", COMMA, 14)))
    form = Form(
        "alias", text, lambda a: converted(a.value, a.type, type), (needs,), level, before=declared, names=(g.name(),)
    )
    return make(form, type, (part,))
