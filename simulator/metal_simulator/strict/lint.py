"""Rules of Metal that stock clang does not know, checked on tokens and declarations."""

from __future__ import annotations

import difflib
from typing import Iterator, List, Tuple

from ..errors import Diagnostic
from ..limits import MAX_BUFFERS
from ..source.columns import by_line, token_column
from ..source.declarations import Declarations, Function, Parameter, host_name, read_attributes
from ..source.files import Source
from ..source.tokens import Token, matching, matching_angle, tokenise
from ..translate.positions import POSITIONS
from ..translate.threadgroup_variables import threadgroup_variable_at
from .attributes import ATTRIBUTES, RENDERING
from .declaration_rules import RULES
from .known_names import known_names, unknown_names
from .words import found_in_tokens, reason

_VECTOR_POSITIONS = {
    "thread_position_in_grid",
    "thread_position_in_threadgroup",
    "threadgroup_position_in_grid",
    "threadgroups_per_grid",
    "threads_per_threadgroup",
    "threads_per_grid",
    "grid_origin",
    "grid_size",
    "dispatch_threads_per_threadgroup",
}
_COUNTS = {f"{scalar}{n}": (scalar, int(n or 1)) for scalar in ("uint", "ushort") for n in ("", "2", "3")}
_COUNTS.update(
    {
        "uint32_t": ("uint", 1),
        "uint16_t": ("ushort", 1),
        "unsigned": ("uint", 1),
        "unsigned int": ("uint", 1),
        "unsigned short": ("ushort", 1),
    }
)
_FORBIDDEN = {
    "goto": "goto does not exist in Metal",
    "double": "double does not exist in Metal",
    "dynamic_cast": "dynamic_cast does not exist in Metal",
    "typeid": "typeid does not exist in Metal",
    "new": "new does not exist in Metal",
    "virtual": "virtual functions do not exist in Metal",
    "throw": "exceptions do not exist in Metal",
    "try": "exceptions do not exist in Metal",
    "catch": "exceptions do not exist in Metal",
    "thread_local": "thread_local does not exist in Metal",
    "register": "register does not exist in Metal",
    "asm": "asm does not exist in Metal",
}


def lint(source: Source, declarations: Declarations) -> List[Diagnostic]:
    """Every rule over one file with its includes; columns are those of the preprocessed text's tokens, mapped back."""
    found: List[Diagnostic] = list(_ascii(source))
    rules = (
        _attributes,
        _words,
        _names,
        _kernels,
        _host_names,
        _threadgroup_variables,
        _calls,
        _lambdas,
        *RULES,
        unknown_names,
    )
    lines = by_line(declarations.tokens)
    for rule in rules:
        for token, severity, message in rule(declarations):
            found.append(Diagnostic(token.file, token.line, token_column(token, lines), severity, message))
    return found


Report = Tuple[Token, str, str]


def _ascii(source: Source) -> Iterator[Diagnostic]:
    """Comments may say what they like."""
    for path, data in source.files.items():
        if data.isascii():
            continue
        text = data.decode("utf-8", "replace")
        for token in tokenise(text):
            if not token.text.isascii():
                column = token.start - text.rfind("\n", 0, token.start)
                column += next(i for i, letter in enumerate(token.text) if not letter.isascii())
                message = "non-ASCII character: not every Metal compiler takes it"
                yield Diagnostic(str(path), token.line, column, "warning", message)


def _attributes(declarations: Declarations) -> Iterator[Report]:
    tokens = declarations.tokens
    for i, token in enumerate(tokens[:-1]):
        if token.text != "[" or tokens[i + 1].text != "[" or token.end != tokens[i + 1].start:
            continue
        for _, _, attributes in read_attributes(tokens, i, matching(tokens, i) + 1):
            for attribute in attributes:
                if attribute.name in ATTRIBUTES | RENDERING or "::" in attribute.name:
                    continue
                close = difflib.get_close_matches(attribute.name, ATTRIBUTES, 1)
                hint = f"; did you mean {close[0]}?" if close else ""
                yield attribute.token, "error", f"unknown attribute [[{attribute.name}]]{hint}"


def _words(declarations: Declarations) -> Iterator[Report]:
    tokens = declarations.tokens
    for i, token in enumerate(tokens):
        if token.kind != "identifier":
            continue
        after = tokens[i + 1].text if i + 1 < len(tokens) else ""
        if token.text in _FORBIDDEN and tokens[i - 1].text not in (".", "->", "::", "operator"):
            yield token, "error", _FORBIDDEN[token.text]
        elif token.text == "long" and after in ("long", "double"):
            yield token, "error", f"long {after} does not exist in Metal"
        elif token.text == "delete" and tokens[i - 1].text != "=":
            yield token, "error", "delete does not exist in Metal"
        elif token.text == "auto" and after == "[":
            yield token, "warning", "structured binding: no public Metal kernel is known to use one"
        elif token.text == "std" and after == "::":
            yield token, "error", "the C++ standard library does not exist in Metal"
    for i in range(len(tokens) - 2):
        if tokens[i].text == "..." and (tokens[i - 1].text == "(" or tokens[i + 1].text == ")") and _is_fold(tokens, i):
            yield tokens[i], "warning", "fold expression: no public Metal kernel is known to use one"


def _names(declarations: Declarations) -> Iterator[Report]:
    for token, word in found_in_tokens(declarations.tokens):
        yield token, "error", reason(word)


_FOLDED = {"+", "*", "&&", "||", "&", "|", ",", "-", "^"}


def _is_fold(tokens: List[Token], i: int) -> bool:
    return tokens[i - 1].text in _FOLDED or tokens[i + 1].text in _FOLDED - {","}


def _lambdas(declarations: Declarations) -> Iterator[Report]:
    tokens = declarations.tokens
    for i, token in enumerate(tokens[1:-1], 1):
        if token.text != "[" or tokens[i + 1].text == "[" or tokens[i - 1].text == "[":
            continue
        before = tokens[i - 1]
        if (
            before.kind in ("identifier", "string", "number")
            and before.text != "return"
            or before.text in (")", "]", ">")
        ):
            continue
        close = matching(tokens, i)
        if close + 1 < len(tokens) and tokens[close + 1].text in ("(", "{"):
            yield token, "warning", "lambda: needs Metal 3.2, and few public Metal kernels are known to use one"


def _kernels(declarations: Declarations) -> Iterator[Report]:
    for function in declarations.functions:
        if function.kernel:
            yield from _kernel(declarations, function)


def _kernel(declarations: Declarations, function: Function) -> Iterator[Report]:
    name = declarations.tokens[function.open - 1]
    if "void" not in [t.text for t in declarations.tokens[function.open - 3 : function.open - 1]]:  # `void kernel f(`
        yield name, "error", f"kernel {function.name} must return void"
    if function.name in ("main", "assert", "half", "uniform"):
        yield name, "error", f"a Metal function must not be called {function.name}"
    yield from _indices(function)
    for parameter in function.parameters:
        yield from _parameter(parameter)
    yield from _positions(function)


def _indices(function: Function) -> Iterator[Report]:
    seen = {}
    for parameter in function.parameters:
        if parameter.kind not in ("buffer", "threadgroup"):
            continue
        if parameter.index >= MAX_BUFFERS:
            yield (
                parameter.token,
                "error",
                f"{parameter.kind} index {parameter.index}: the largest is {MAX_BUFFERS - 1}",
            )
        other = seen.setdefault((parameter.kind, parameter.index), parameter)
        if other is not parameter and not (parameter.gate and other.gate):
            yield (
                parameter.token,
                "error",
                (f"{parameter.kind} index {parameter.index} of '{parameter.name}' is already taken by '{other.name}'"),
            )


def _parameter(parameter: Parameter) -> Iterator[Report]:
    words = [t.text for t in parameter.type]
    if parameter.kind == "buffer" and parameter.shape == "value":
        yield (
            parameter.token,
            "error",
            (
                f"buffer argument '{parameter.name}' is passed by value; use a constant reference, "
                f"constant {' '.join(words)}&"
            ),
        )
    elif parameter.kind in ("buffer", "threadgroup") and parameter.space not in ("device", "constant", "threadgroup"):
        yield parameter.token, "error", f"kernel argument '{parameter.name}' must be device, constant or threadgroup"
    elif parameter.kind not in ("buffer", "threadgroup") and parameter.kind not in POSITIONS:
        yield (
            parameter.token,
            "error",
            f"kernel argument '{parameter.name}' has no attribute that says where it comes from",
        )
    for word in {"size_t", "ptrdiff_t"} & set(words):
        yield (
            parameter.token,
            "warning",
            f"argument '{parameter.name}' is a {word}, which the specification forbids; use uint64_t",
        )


def _positions(function: Function) -> Iterator[Report]:
    counts = []
    for parameter in function.parameters:
        if parameter.kind not in POSITIONS:
            continue
        kind = " ".join(t.text for t in parameter.type if t.text not in ("const", "metal", "::"))
        if kind not in _COUNTS:
            yield parameter.token, "error", f"[[{parameter.kind}]] must be uint or ushort or their vectors, not {kind}"
        elif parameter.kind in _VECTOR_POSITIONS:
            counts.append((_COUNTS[kind][1], parameter))
        elif _COUNTS[kind][1] != 1:
            yield parameter.token, "error", f"[[{parameter.kind}]] is a scalar, not {kind}"
    for count, parameter in counts[1:]:
        if count != counts[0][0]:
            yield (
                parameter.token,
                "error",
                (
                    f"position '{parameter.name}' has {count} components, "
                    f"'{counts[0][1].name}' has {counts[0][0]}; they must match"
                ),
            )


def _host_names(declarations: Declarations) -> Iterator[Report]:
    tokens = declarations.tokens
    named = [(host_name(f), tokens[f.open - 1]) for f in declarations.functions if f.kernel and not f.template]
    named += [(i.host_name, i.token) for i in declarations.instantiations if i.host_name]
    seen = {}
    for name, token in named:
        if name in seen:
            yield token, "error", f'host name "{name}" is already taken in line {seen[name].line}'
        seen.setdefault(name, token)


def _threadgroup_variables(declarations: Declarations) -> Iterator[Report]:
    tokens = declarations.tokens
    inside = [(f.body, f.end) for f in declarations.functions if f.kernel]
    for i, token in enumerate(tokens):
        if token.text != "__local" or any(first < i < last for first, last in inside):
            continue
        variable = threadgroup_variable_at(tokens, i)
        if variable:
            yield (
                variable.names[0],
                "error",
                (
                    f"threadgroup variable '{variable.names[0].text}' outside a kernel: declare it "
                    "in the kernel and pass a pointer"
                ),
            )


def _calls(declarations: Declarations) -> Iterator[Report]:
    tokens = declarations.tokens
    names = {f.name for f in declarations.functions if f.kernel} - known_names()["functions"]
    names -= {f.name for f in declarations.functions if not f.kernel}  # which may be meant
    spaces = {space for f in declarations.functions for space in f.scope.split("::")}
    for function in declarations.functions:
        for i in range(function.body, function.end):
            member = (
                tokens[i - 1].text == "::" and tokens[i - 2].text not in spaces and tokens[i - 2].kind == "identifier"
            )
            if tokens[i].text in names and not member and tokens[i - 2].text != ">" and _is_call(tokens, i):
                yield tokens[i], "error", f"kernel {tokens[i].text} is called; a kernel can only be launched"


def _is_call(tokens: List[Token], i: int) -> bool:
    if tokens[i - 1].text in (".", "->"):
        return False
    after = i + 1
    if tokens[after].text == "<":
        after = matching_angle(tokens, after) + 1
    return after > 0 and tokens[after].text == "("
