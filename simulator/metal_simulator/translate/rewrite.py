"""Turning preprocessed Metal into what clang reads, for the check (all kernels) or for running (one kernel)."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional, Tuple

from ..errors import Diagnostic
from ..source.declarations import Declarations, Function, Instantiation, read_attributes
from ..source.tokens import Token, matching, matching_angle
from ..toolchain import cache
from .address_spaces import space_edits
from .declared import derived, pointed, position_edits, with_types
from .edits import Edit, Rewritten, apply_edits, replace_tokens
from .entry_point import entry_point
from .function_constants import Derived, definedness_edits, definition, derived_edits
from .reading import read
from .threadgroup_variables import blocks_around, limit_test, threadgroup_variables
from .typed import typed_edits

_RENDERING = ("vertex", "fragment")
_PLAIN_FLOAT = re.compile(r"(?=.*[.ep])(?:0x[\da-f.]+p|[\d.']+(?:e|$))[+-]?\d*")


def for_check(text: str, declarations: Declarations) -> Rewritten:
    known = facts(text, declarations)
    edits = _common_edits(declarations, known.edits, limit=True)
    for constant in declarations.constants:
        edits.append(
            replace_tokens(
                declarations.tokens,
                constant.start,
                constant.end,
                f"extern const __constant {constant.type} {constant.name};",
            )
        )
    edits += definedness_edits(declarations.tokens, lambda name: "true")
    for instantiation in declarations.instantiations:
        edits += _drop_attributes(declarations.tokens, instantiation.start, instantiation.end)
    return apply_edits(text, edits)._replace(unread=known.unread)


def for_run(
    text: str, declarations: Declarations, kernel: Tuple[Function, Optional[Instantiation]], constants: Dict[str, str]
) -> Rewritten:
    """constants: values as C++ text; a constant without value stays an undefined symbol, metal_unset_<name>."""
    tokens = declarations.tokens
    known = facts(text, declarations)
    edits = _common_edits(declarations, known.edits)
    optional = {tokens[i + 2].text for i in range(len(tokens) - 2) if tokens[i].text == "is_function_constant_defined"}
    for constant in declarations.constants:
        edits.append(replace_tokens(tokens, constant.start, constant.end, definition(constant, constants, optional)))
    unset = {c.token.start: c.name for c in declarations.constants if c.name not in {*constants, *optional}}
    edits += derived_edits(text, known.derived, unset)
    edits += definedness_edits(tokens, lambda name: "true" if name in constants else "false")
    for instantiation in declarations.instantiations:
        edits.append(replace_tokens(tokens, instantiation.start, instantiation.end, ""))
    for function in declarations.functions:
        if function.kernel and not function.template:
            edits.append(Edit(tokens[function.start].start, tokens[function.start].start, "static "))
    rewritten = apply_edits(text, edits)
    return rewritten._replace(text=rewritten.text + entry_point(kernel), unread=known.unread)


class Facts(NamedTuple):
    """What types say of a text, for all its kernels."""

    edits: List[Edit]
    unread: List[Diagnostic]  # what cannot be read
    derived: List[Derived]
    pointed: Dict[int, Tuple[str, str, bool]]  # see declared.pointed


def facts(text: str, declarations: Declarations) -> Facts:
    """libclang's reading of a text, which is remembered."""
    name = "facts-" + cache.key(text)
    known = cache.read(name)
    if known is None:
        reading = read(text, declarations, _taken(declarations))
        edits = typed_edits(reading, text) + position_edits(reading, declarations)
        made = Facts(edits, reading.problems(), derived(reading, declarations), pointed(reading))
        known = made._replace(pointed=list(made.pointed.items()))._asdict()
        cache.write(name, known)
    return Facts(
        [Edit(*edit) for edit in known["edits"]],
        [Diagnostic(*unread) for unread in known["unread"]],
        [Derived(tuple(statement), *rest) for statement, *rest in known["derived"]],
        {place: tuple(said) for place, said in known["pointed"]},
    )


def read_types(text: str, declarations: Declarations) -> Declarations:
    """Declarations whose kernels' parameters are what their types say."""
    return with_types(declarations, facts(text, declarations).pointed)


def _taken(declarations: Declarations) -> List[Tuple[int, int]]:
    """Places of the text that say nothing to a C++ parser."""
    tokens = declarations.tokens
    taken = [(e.start, e.end) for e in _redeclarations(declarations) + _rendering(declarations)]
    for function in declarations.functions:
        if function.kernel:
            taken += [(e.start, e.end) for e in _drop_attributes(tokens, function.start, function.body)]
    return taken + [(tokens[i.start].start, tokens[i.end].end) for i in declarations.instantiations]


def _common_edits(declarations: Declarations, edits: List[Edit], limit: bool = False) -> List[Edit]:
    tokens = declarations.tokens
    edits = _literals(tokens) + edits + space_edits(tokens)
    edits += _redeclarations(declarations) + _rendering(declarations)
    number = 0
    for function in declarations.functions:
        if not function.kernel:
            continue
        edits += _drop_attributes(tokens, function.start, function.body)
        for first, last, _ in _parameter_attributes(tokens, function):
            edits.append(replace_tokens(tokens, first, last, ""))
        variables = threadgroup_variables(tokens, function, number)
        number += sum(len(v.names) for v in variables)
        totals: List[Tuple[int, str]] = []  # the block that sees it (its brace), and its name
        for variable in variables:
            check = ""
            if limit:
                blocks = blocks_around(tokens, function.body, variable.start)
                before = next((name for block, name in reversed(totals) if block in blocks), "")
                name, check = limit_test(variable, before)
                totals.append((blocks[-1], name))
            edits.append(replace_tokens(tokens, variable.start, variable.end, variable.text + check))
            inside = (tokens[variable.start].start, tokens[variable.end].end)
            edits = [e for e in edits if e is edits[-1] or not inside[0] <= e.start < inside[1]]
    return edits


def _rendering(declarations: Declarations) -> List[Edit]:
    """Functions for rendering are compiled, but not run: without `vertex` and `fragment`."""
    tokens, edits = declarations.tokens, []
    for start, end, _ in declarations.statements:
        while tokens[start].text == "template" and tokens[start + 1].text == "<":
            start = matching_angle(tokens, start + 1) + 1
        words = tokens[start : min(end, start + 2)]  # `template fragment ...` instantiates
        edits += [Edit(t.start, t.end, "") for t in words if t.text in _RENDERING]
    return edits


def _literals(tokens: List[Token]) -> List[Edit]:
    """Floating-point literals without a suffix are float in Metal, in templates too; bf makes a bfloat."""
    edits = []
    for token in tokens:
        text = token.text.lower()
        if token.kind != "number" or text.startswith("0x") and "p" not in text:
            continue
        if text.endswith("bf"):
            edits.append(Edit(token.start, token.end, f"bfloat({token.text[:-2]}f)"))
        elif _PLAIN_FLOAT.fullmatch(text):
            edits.append(Edit(token.end, token.end, "f"))
    return edits


def _redeclarations(declarations: Declarations) -> List[Edit]:
    """`constant constexpr T S::x[N];`, once needed for static members: it says nothing new, and clang refuses it."""
    tokens, edits = declarations.tokens, []
    for start, end, _ in declarations.statements:
        words = [t.text for t in tokens[start : end + 1]]
        if "__constant" in words and "::" in words and "constexpr" in words and words[-1] == ";":
            if not {"=", "(", "{", "using", "template"} & set(words):
                edits.append(replace_tokens(tokens, start, end, ""))
    return edits


def _parameter_attributes(tokens: List[Token], function: Function):
    return read_attributes(tokens, function.open + 1, function.close)


def _drop_attributes(tokens: List[Token], start: int, end: int) -> List[Edit]:
    edits = [replace_tokens(tokens, first, last, "") for first, last, _ in read_attributes(tokens, start, end)]
    i = start
    while i < end:
        if tokens[i].text in ("(", "["):
            i = matching(tokens, i)
        elif tokens[i].text == "kernel":
            edits.append(replace_tokens(tokens, i, i, ""))
        i += 1
    return edits
