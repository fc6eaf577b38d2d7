"""Productions: contexts at namespace scope: functions, templates, macros, structs, constants."""

from __future__ import annotations

import numpy as np

from .arithmetic import converted, converts
from .generator import TEMPLATE_NAMES, Generator, Inapplicable, parameter, production
from .operators import PRECEDENCE
from .statements import index_below, pick
from .tree import COMMA, POSTFIX, SUM, Form, Node, make
from .types import INT, TYPES, Type

INLINE = "static inline"


def own_arguments(g: Generator, count: int, depth: int, type: Type, exact: bool = False) -> tuple:
    """Types of parameters, arguments that convert to them, and the parameters as nodes."""
    types = tuple(type if g.chance(0.6) else g.choice(TYPES) for _ in range(count))
    parts = []
    for t in types:
        scalars = [] if exact or g.chance(0.7) else [u for u in TYPES if u.size in (1, t.size)]
        scalars = [u for u in scalars if u.size == 1 and converts(u.scalar, t.scalar)]
        parts.append(g.expression(g.choice(scalars) if scalars else t, depth))
    values = (converted(p.value, p.type, t) for p, t in zip(parts, types))
    return types, tuple(parts), [parameter(i, t, v) for i, (t, v) in enumerate(zip(types, values))]


@production(12)
def function(g: Generator, type: Type, depth: int) -> Node:
    types, parts, inner = own_arguments(g, 2, depth, type)
    body = g.body(inner, type, depth)
    how = g.choice(("{}", "const {}"))
    listed = ", ".join(f"{how.format(t)} ${'ab'[i]}" for i, t in enumerate(types))
    result = g.choice(("return $r;", "return ($r);", f"return {type}{{$r}};", f"const {type} r = $r; return r;"))
    start = g.choice((f"{INLINE} {type}", f"inline {type}", f"METAL_FUNC {type}", f"static {type}"))
    top = f"{start} f$n({listed}) {{ $s {result} }}"
    form = Form("function", "f$n($0, $1)", top=top, names=(g.name(), g.name()), parameters=types)
    return make(form, type, parts, body)


@production(6)
def function_by_reference(g: Generator, type: Type, depth: int) -> Node:
    """A result through a reference or a pointer to a variable."""
    types, parts, inner = own_arguments(g, 1, depth, type)
    body = g.body(inner, type, depth)
    declared, set_, given = g.choice((("thread {}& b", "b", "$v"), ("thread {}* b", "*b", "&$v")))
    top = f"{INLINE} void f$n({types[0]} $a, {declared.format(type)}) {{ $s {set_} = $r; }}"
    before = f"{type} $v; f$n($0, {given});"
    return make(Form("function by reference", "$v", before=before, top=top, parameters=types), type, parts, body)


@production(7)
def template(g: Generator, type: Type, depth: int) -> Node:
    """A function template whose parameter is deduced, or said."""
    types = (type, g.choice(TYPES))
    parts = tuple(g.expression(t, depth) for t in types)
    inner = [parameter(i, t, p.value) for i, (t, p) in enumerate(zip(types, parts))]
    body = g.body(inner, type, depth)
    word = g.choice(("typename", "class"))
    result = g.choice(("return $r;", "$t result = $r; return result;", "return $t($r);"))
    top = f"template <{word} $t> {INLINE} $t f$n($t $a, {types[1]} $b) {{ $s {result} }}"
    said = g.choice(("", f"<{type}>"))
    form = Form(
        "template" if said else "deduced template", f"f$n{said}($0, $1)", top=top, parameters=types,
        template_name=g.choice(TEMPLATE_NAMES),
    )  # fmt: skip
    return make(form, type, parts, body)


@production(6, constant=True)
def template_argument(g: Generator, type: Type, depth: int) -> Node:
    """An expression as a template's argument."""
    if type.size > 1 or not (type.is_integer or type.scalar == "bool"):
        raise Inapplicable
    part = g.constant(type, depth)
    top, text = g.choice(
        (
            (f"template <{type} x> {INLINE} constexpr {type} f$n() {{ return x; }}", "f$n<$0>()"),
            (f"template <{type} x> struct S$n {{ static constexpr constant {type} y = x; }};", "S$n<$0>::y"),
            (
                f"template <{type} x, typename $t = int> struct S$n {{ enum : {type} {{ y = x }}; }};",
                f"{type}(S$n<$0>::y)",
            ),
        )
    )
    # a '>' outside parentheses would end the arguments
    form = Form("template argument", text, lambda a: a.value, (SUM,), top=top, template_name="T", constants=(0,))
    return make(form, type, (part,))


@production(6)
def default_argument(g: Generator, type: Type, depth: int) -> Node:
    types, parts, inner = own_arguments(g, 1, depth, type)
    constant = g.constant(type, depth)
    body = g.body([*inner, parameter(1, type, constant.value)], type, depth)
    top = f"{INLINE} {type} f$n({types[0]} $a, {type} $b = $1) {{ $s return $r; }}"
    form = Form("default argument", "f$n($0)", top=top, parameters=(*types, type), constants=(1,))
    return make(form, type, (*parts, constant), body)


@production(7)
def macro(g: Generator, type: Type, depth: int) -> Node:
    types = tuple(type if g.chance(0.6) else g.choice(TYPES) for _ in range(2))
    parts = tuple(g.expression(t, depth) for t in types)
    inner = [parameter(i, t, p.value) for i, (t, p) in enumerate(zip(types, parts))]
    body = g.body(inner, type, depth, pure=True)
    form = Form("macro", "M$n($0, $1)", needs=(POSTFIX, POSTFIX), top="#define M$n($a, $b) ($r)", parameters=types)
    return make(form, type, parts, body)


@production(4)
def object_macro(g: Generator, type: Type, depth: int) -> Node:
    part = g.constant(type, depth)
    return make(Form("object macro", "M$n", lambda a: a.value, top="#define M$n ($0)", constants=(0,)), type, (part,))


@production(8)
def struct_result(g: Generator, type: Type, depth: int) -> Node:
    """A function that returns a struct, in front of the kernel."""
    types, parts, inner = own_arguments(g, 2, depth, type)
    body = g.body(inner, type, depth)
    keyword = g.choice(("", "", "struct "))
    result = g.choice(
        (
            f"{keyword}S$n s; s.x = $r; s.y = $b; return s;",
            f"{keyword}S$n s = {{$r, $b}}; return s;",
            "return {$r, $b};",
            "return S$n{$r, $b};",
        )
    )
    listed = f"{types[0]} $a, {types[1]} $b"
    top = f"struct S$n {{ {type} x; {types[1]} y; }};\n{INLINE} {keyword}S$n f$n({listed}) {{ $s {result} }}"
    text, before = g.choice(
        (("f$n($0, $1).x", ""), ("$v.x", "S$n $v = f$n($0, $1);"), ("$v.x", "auto $v = f$n($0, $1);"))
    )
    form = Form("struct-returning function", text, top=top, before=before, names=("", ""), parameters=types)
    return make(form, type, parts, body)


@production(8)
def method(g: Generator, type: Type, depth: int) -> Node:
    """A member function, an operator or a constructor of a struct."""
    types, parts, inner = own_arguments(g, 2, depth, type, exact=True)
    body = g.body(inner, type, depth)
    a, b = types
    top, text, kind = g.choice(
        (
            (f"{a} x; {type} f({b} $b) const {{ {a} $a = x; $s return $r; }}", "S{$0}.f($1)", "member function"),
            (f"{a} x; {type} f({b} $b) {{ {a} $a = x; $s return $r; }}", "$v.f($1)", "member function"),
            (f"{a} x; {type} operator()({b} $b) const {{ {a} $a = x; $s return $r; }}", "$v($1)", "call operator"),
            (f"{type} x; S$n({a} $a, {b} $b) {{ $s x = $r; }}", "S($0, $1).x", "struct constructor"),
            (f"static {type} f({a} $a, {b} $b) {{ $s return $r; }}", "S::f($0, $1)", "static member function"),
        )
    )
    before = "S$n $v = {$0};" if "$v" in text else ""
    text = text.replace("S", "S$n")
    form = Form(kind, text, top=f"struct S$n {{ {top} }};", before=before, names=("", ""), parameters=types)
    return make(form, type, parts, body)


@production(4)
def operator_overload(g: Generator, type: Type, depth: int) -> Node:
    types, parts, inner = own_arguments(g, 2, depth, type, exact=True)
    body = g.body(inner, type, depth)
    operator = g.choice("+ - * < == << &&".split())
    a, b = types
    declared = f"struct S$n {{ {a} x; }};\n{INLINE} {type} operator{operator}(S$n c, {b} $b)"
    top = f"{declared} {{ {a} $a = c.x; $s return $r; }}"
    level = PRECEDENCE[operator]
    form = Form(
        "operator overload",
        f"S$n{{$0}} {operator} $1",
        needs=(1, level + 1),
        precedence=level,
        top=top,
        parameters=types,
    )
    return make(form, type, parts, body)


@production(6)
def members(g: Generator, type: Type, depth: int) -> Node:
    """A local struct: braces around its members, whose names may be those of types."""
    other = g.choice(TYPES)
    parts = (g.expression(other, depth), g.expression(type, depth))
    before, text = g.choice(
        (
            ("S$n $v = {$0, $1};", "$v.M"),
            ("S$n $v{$0, $1};", "$v.M"),
            ("S$n $v; $v.x = $0; $v.M = $1;", "$v.M"),
            ("S$n $v[1] = {{$0, $1}};", "$v[0].M"),
            ("S$n $v = {$0, $1}; thread S$n* w$n = &$v;", "w$n->M"),
            ("", "S$n{$0, $1}.M"),
        )
    )
    name = g.name() or "y"
    top = f"struct S$n {{ {other} x; {type} {name}; }};"
    text, before = text.replace("M", name), before.replace("M", name)
    kind = "members" if name == "y" else "named member"
    return make(Form(kind, text, lambda a, b: b.value, top=top, before=before, names=("",)), type, parts)


@production(6)
def constant_table(g: Generator, type: Type, depth: int) -> Node:
    """An array in constant memory, initialised by constant expressions."""
    if type.size > 1 and type.scalar == "bool":
        raise Inapplicable
    parts = tuple(g.constant(type, 1) for _ in range(2))
    style = g.choice((f"constant {type} t$n[2]", f"constant constexpr {type} t$n[]", f"constant {type} t$n[2]"))
    form = Form(
        "constant table",
        "t$n[$2]",
        lambda a, b, i: pick(np.stack([a.value, b.value], 1), i),
        (1, 1, COMMA),
        top=f"{style} = {{$0, $1}};",
        constants=(0, 1),
    )
    return make(form, type, (*parts, index_below(g, 2, depth)))


@production(4)
def constant_struct(g: Generator, type: Type, depth: int) -> Node:
    """An object copied out of constant memory."""
    if type.size > 1 and type.scalar == "bool":
        raise Inapplicable
    parts = (g.constant(type, 1), g.constant(INT, 1), index_below(g, 2, depth))
    top = f"struct S$n {{ {type} x; int y; }};\nconstant S$n t$n[2] = {{{{$0, $1}}, {{$0, $1}}}};"
    before = g.choice(("S$n $v = t$n[$2];", "S$n $v; $v = t$n[$2];", "const auto $v = t$n[$2];", "S$n $v(t$n[$2]);"))
    form = Form(
        "copy from constant memory",
        "$v.x",
        lambda a, b, i: a.value,
        (1, 1, COMMA),
        top=top,
        constants=(0, 1),
        before=before,
        names=("",),
    )
    return make(form, type, parts)


@production(4)
def function_argument(g: Generator, type: Type, depth: int) -> Node:
    """A function as a template's argument."""
    types, parts, inner = own_arguments(g, 1, depth, type, exact=True)
    body = g.body(inner, type, depth)
    top = (
        f"{INLINE} {type} g$n({types[0]} $a) {{ $s return $r; }}\n"
        f"template <{type} (*h)({types[0]})> {INLINE} {type} f$n({types[0]} x) {{ return h(x); }}"
    )
    return make(Form("function as template argument", "f$n<g$n>($0)", top=top, parameters=types), type, parts, body)


@production(4)
def by_size(g: Generator, type: Type, depth: int) -> Node:
    """vec<T, N> where both are template parameters."""
    if type.size == 1 or type.scalar == "bool":
        raise Inapplicable
    part = g.expression(type, depth)
    one = Type(type.scalar)
    top, text = g.choice(
        (
            ("template <typename $t, int N> {} vec<$t, N> f$n(vec<$t, N> x) {{ return x; }}", "f$n($0)"),
            (
                "template <typename $t, int N> {} vec<$t, N> f$n(vec<$t, N> x) {{ return x; }}",
                f"f$n<{one}, {type.size}>($0)",
            ),
            (
                "template <typename $t> {} vec<$t, 2 * 2 - {}> f$n(vec<$t, {}> x) {{ return vec<$t, {}>(x); }}",
                f"f$n<{one}>($0)",
            ),
        )
    )
    top = top.format(INLINE, 4 - type.size, type.size, type.size)
    form = Form("vec<T, N>", text, lambda a: a.value, top=top, template_name=g.choice(TEMPLATE_NAMES))
    return make(form, type, (part,))
