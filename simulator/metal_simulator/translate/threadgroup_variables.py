"""Threadgroup variables: each becomes a reference into memory of its threadgroup."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

from ..limits import THREADGROUP_LIMIT
from ..source.declarations import Function
from ..source.tokens import OPEN, Token, matching, spell, split

THREADGROUP_LIMIT_MESSAGE = f"more than {THREADGROUP_LIMIT} bytes of threadgroup memory"


class ThreadgroupVariable(NamedTuple):
    """`alignas(a) threadgroup T name[N], ...;` in a kernel."""

    start: int
    end: int  # of the semicolon
    names: Tuple[Token, ...]
    text: str


def blocks_around(tokens: List[Token], start: int, index: int) -> List[int]:
    """Opening braces of the blocks around a token, outermost first."""
    found: List[int] = []
    for i in range(start, index):
        if tokens[i].text == "{":
            found.append(i)
        elif tokens[i].text == "}":
            found.pop()
    return found


def limit_test(variable: ThreadgroupVariable, total: str) -> Tuple[str, str]:
    """Name of the sum of sizes up to this variable, and its definition with the test against Metal's limit."""
    name = f"__threadgroup_bytes_after_{variable.names[-1].text}"
    sizes = " + ".join([total] * bool(total) + [f"sizeof({n.text})" for n in variable.names])
    test = f'static_assert({name} <= {THREADGROUP_LIMIT}, "{THREADGROUP_LIMIT_MESSAGE}");'
    return name, f"constexpr ulong {name} = {sizes}; {test}"


def threadgroup_variables(tokens: List[Token], function: Function, number: int = 0) -> List[ThreadgroupVariable]:
    """The threadgroup variables declared in a function body, numbered from `number`."""
    found: List[ThreadgroupVariable] = []
    for i in range(function.body, function.end):
        variable = threadgroup_variable_at(tokens, i, number + sum(len(v.names) for v in found))
        if variable:
            found.append(variable)
    return found


def threadgroup_variable_at(tokens: List[Token], i: int, number: int = 0) -> Optional[ThreadgroupVariable]:
    """The declaration whose address space is token i; None when it declares a pointer or a parameter."""
    if tokens[i].text != "__local":
        return None
    start, alignment = i, "1"
    while tokens[start - 1].text == ")":
        opening = next((k for k in range(start - 2, 0, -1) if matching(tokens, k) == start - 1), 0)
        if tokens[opening - 1].text != "alignas":
            return None
        alignment, start = spell(tokens[opening + 1 : start - 1]), opening - 1
    if start > 0 and tokens[start - 1].text not in (";", "{", "}", ":", "static"):
        return None
    end = next((k for k in range(i, len(tokens)) if tokens[k].text == ";"), None)
    return None if end is None else _variable(tokens, start, i, end, alignment, number)


def _variable(tokens: List[Token], start: int, space: int, end: int, alignment: str, number: int):
    declarators = [without_zeros(part) for part in split(tokens[space + 1 : end])]
    declarators, given = zip(*(_without_alignment(part) for part in declarators)) if declarators else ((), ())
    alignment = max([alignment, *given], key=lambda text: text != "1")
    if any(t.text in ("*", "&", "=", "{") for part in declarators for t in _outside(part)):
        return None
    base: List[Token] = []
    names, text = [], ""
    for part in declarators:
        bracket = next((k for k, t in enumerate(part) if t.text == "["), len(part))
        name = part[bracket - 1]
        base = base or part[: bracket - 1]
        kind, extent = spell(base), spell(part[bracket:])
        declarator = f"(&{name.text}){extent}" if extent else f"&{name.text}"
        text += (
            f"__local {kind} {declarator} = ::metal::__threadgroup_variable<{kind} {extent}, {number + len(names)}, "
            f"{alignment}>(); "
        )
        names.append(name)
    return ThreadgroupVariable(start, end, tuple(names), text)


def _without_alignment(part: List[Token]) -> Tuple[List[Token], str]:
    """A declarator without `alignas(n)` and `__attribute__((aligned(n)))`, and n."""
    for k, token in enumerate(part):
        if token.text in ("alignas", "__attribute__"):
            close = matching(part, k + 1)
            inner = part[k + 2 : close] if token.text == "alignas" else part[k + 5 : close - 2]
            return part[:k] + part[close + 1 :], spell(inner)
    return part, "1"


def without_zeros(declarator: List[Token]) -> List[Token]:
    """A declarator without `= {0}` or `= {}`, which compiles for threadgroup variables, but which nobody runs."""
    words = [t.text for t in declarator]
    if "=" in words and words[words.index("=") + 1 :] in (["{", "}"], ["{", "0", "}"]):
        return declarator[: words.index("=")]
    return declarator


def _outside(part: List[Token]) -> List[Token]:
    """Tokens outside brackets and template arguments."""
    result, i = [], 0
    while i < len(part):
        if part[i].text in OPEN and part[i].text != "{":
            i = matching(part, i)
        elif part[i].text == "<":
            depth = 0
            while i < len(part):
                depth += (part[i].text == "<") - (part[i].text == ">")
                if depth == 0:
                    break
                i += 1
        else:
            result.append(part[i])
        i += 1
    return result
