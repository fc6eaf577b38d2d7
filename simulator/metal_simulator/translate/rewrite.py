"""Turning preprocessed Metal into what clang reads, for the check (all kernels) or for running (one kernel)."""

from __future__ import annotations

import re
from typing import Dict, List, NamedTuple, Optional, Tuple

from ..errors import Diagnostic
from ..source.declarations import Declarations, Function, Instantiation, read_attributes
from ..source.statements import is_attribute
from ..source.tokens import Token, matching, matching_angle
from ..toolchain import cache
from .address_spaces import space_edits
from .declared import Question, derived, pointed, position_edits, questions, specialised, with_types
from .edits import Edit, Rewritten, apply_edits, replace_tokens
from .entry_point import entry_point
from .function_constants import Derived, definition, derived_edits
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
    edits += [Edit(question.start, question.end, "true") for question in known.questions]
    for instantiation in declarations.instantiations:
        edits += _drop_attributes(declarations.tokens, instantiation.start, instantiation.end)
    return apply_edits(text, edits)._replace(unread=known.unread)


class Shared(NamedTuple):
    """What the builds of all kernels of a file share."""

    text: str
    declarations: Declarations
    facts: Facts
    edits: List[Edit]
    threadgroup_names: List[str]  # of threadgroup variables, by the number that the edits give them


def shared(text: str, declarations: Declarations) -> Shared:
    known = facts(text, declarations)
    edits = _common_edits(declarations, known.edits)
    for instantiation in declarations.instantiations:
        edits.append(replace_tokens(declarations.tokens, instantiation.start, instantiation.end, ""))
    for function in declarations.functions:
        if function.kernel and not function.template:
            start = declarations.tokens[function.start].start
            edits.append(Edit(start, start, "static "))
    return Shared(text, declarations, known, edits, _threadgroup_names(declarations))


def for_run(file: Shared, kernel: Tuple[Function, Optional[Instantiation]], constants: Dict[str, str]) -> Rewritten:
    """constants: values as C++ text; a constant without value stays an undefined symbol, metal_unset_<name>."""
    text, declarations, known, edits = file.text, file.declarations, file.facts, list(file.edits)
    tokens = declarations.tokens
    names = {constant.token.start: constant.name for constant in declarations.constants}
    optional = {names.get(question.constant, "") for question in known.questions}
    for constant in declarations.constants:
        edits.append(replace_tokens(tokens, constant.start, constant.end, definition(constant, constants, optional)))
    unset = {c.token.start: c.name for c in declarations.constants if c.name not in {*constants, *optional}}
    edits += derived_edits(text, known.derived, unset)
    for start, end, constant in known.questions:
        edits.append(Edit(start, end, "true" if names.get(constant) in constants else "false"))
    rewritten = apply_edits(text, edits)
    return rewritten._replace(text=rewritten.text + entry_point(kernel), unread=known.unread)


class Facts(NamedTuple):
    """What types say of a text, for all its kernels."""

    edits: List[Edit]
    unread: List[Diagnostic]  # what cannot be read
    derived: List[Derived]
    questions: List[Question]
    pointed: Dict[int, Tuple[str, str, bool]]  # see declared.pointed
    specialised: Dict[int, Tuple[int, str]]  # see declared.specialised


def facts(text: str, declarations: Declarations) -> Facts:
    """libclang's reading of a text, which is remembered."""
    name = "facts-" + cache.key(text)
    known = cache.read(name)
    if known is None:
        reading = read(text, declarations, _taken(declarations))
        known = Facts(
            edits=typed_edits(reading, text) + position_edits(reading, declarations),
            unread=reading.problems(),
            derived=derived(reading, declarations),
            questions=questions(reading),
            pointed=list(pointed(reading).items()),
            specialised=list(specialised(reading).items()),
        )._asdict()
        cache.write(name, known)
    return Facts(
        [Edit(*edit) for edit in known["edits"]],
        [Diagnostic(*unread) for unread in known["unread"]],
        [Derived(tuple(statement), *rest) for statement, *rest in known["derived"]],
        [Question(*question) for question in known["questions"]],
        {place: tuple(said) for place, said in known["pointed"]},
        {place: tuple(said) for place, said in known["specialised"]},
    )


def read_types(text: str, declarations: Declarations) -> Declarations:
    """Declarations whose kernels' parameters and instantiations are what their types say."""
    known = facts(text, declarations)
    return with_types(declarations, known.pointed, known.specialised)


def _taken(declarations: Declarations) -> List[Tuple[int, int]]:
    """Places of the text that say nothing to a C++ parser."""
    tokens = declarations.tokens
    taken = [(e.start, e.end) for e in _redeclarations(declarations) + _rendering(declarations)]
    for function in declarations.functions:
        if function.kernel:
            taken += [(e.start, e.end) for e in _drop_attributes(tokens, function.start, function.body)]
    for instantiation in declarations.instantiations:
        taken += [(e.start, e.end) for e in _drop_attributes(tokens, instantiation.start, instantiation.end)]
    return taken


def _common_edits(declarations: Declarations, edits: List[Edit], limit: bool = False) -> List[Edit]:
    tokens = declarations.tokens
    edits = _literals(tokens) + edits + space_edits(tokens) + _commas(tokens)
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


def _threadgroup_names(declarations: Declarations) -> List[str]:
    kernels = [f for f in declarations.functions if f.kernel]
    return [t.text for f in kernels for v in threadgroup_variables(declarations.tokens, f) for t in v.names]


def _rendering(declarations: Declarations) -> List[Edit]:
    """Functions for rendering are compiled, but not run: without `vertex` and `fragment`."""
    tokens, edits = declarations.tokens, []
    for start, end, _ in declarations.statements:
        while tokens[start].text == "template" and tokens[start + 1].text == "<":
            start = max(matching_angle(tokens, start + 1), start + 1) + 1
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


def _commas(tokens: List[Token]) -> List[Edit]:
    """Between attributes in one pair of brackets, [[color(0) index(1)]], where Metal needs none."""
    edits = []
    for i, token in enumerate(tokens):
        if token.text == "[" and is_attribute(tokens, i):
            inside = tokens[i : matching(tokens, i)]
            ends = [a.end for a, b in zip(inside, inside[1:]) if a.text == ")" and b.kind == "identifier"]
            edits += [Edit(end, end, ",") for end in ends]
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
