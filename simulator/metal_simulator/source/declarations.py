"""What a Metal file declares: kernels with their parameters, explicit instantiations, function constants."""

from __future__ import annotations

from typing import Dict, List, NamedTuple, Optional, Tuple

from ..errors import CompileError
from .expressions import constant_values, evaluate
from .statements import CALLS, Statement, is_attribute, statements
from .tokens import OPEN, Token, matching, matching_angle, spell, split, string_value

_SPACES = {"__global": "device", "__constant": "constant", "__local": "threadgroup", "__private": "thread"}


class Attribute(NamedTuple):
    name: str
    arguments: Tuple[Token, ...]
    token: Token


class Parameter(NamedTuple):
    """One kernel parameter. kind: "buffer", "threadgroup" or the name of a position attribute."""

    name: str
    kind: str
    index: int  # buffer or threadgroup index, -1 otherwise
    space: str  # device, constant, threadgroup or "" (by value)
    shape: str  # pointer, reference or value
    constant: bool  # not writable
    gate: str  # function constant that decides whether it exists, or ""
    attributes: Tuple[Attribute, ...]
    type: Tuple[Token, ...]
    token: Token


class Function(NamedTuple):
    """A function definition at namespace scope; positions are token indices."""

    name: str
    scope: str  # enclosing namespaces, "a::b"
    place: int  # of its name in the text
    start: int
    open: int  # of the parameter list
    close: int
    body: int  # of the opening brace
    end: int  # of the closing brace
    template: bool
    arguments: str  # of the template that it specialises, as text
    kernel: bool
    attributes: Tuple[Attribute, ...]
    parameters: Tuple[Parameter, ...]  # of kernels only

    @property
    def qualified(self) -> str:
        return f"{self.scope}::{self.name}" if self.scope else self.name


class Instantiation(NamedTuple):
    """`template [[host_name("x")]] [[kernel]] decltype(f<A>) f<A>;`

    What of, its type says: see translate/declared.py."""

    host_name: str
    scope: str
    template: int  # place of the template's name, -1 if it is not known
    arguments: str  # template arguments, as text
    start: int
    end: int  # of the semicolon
    token: Token


class Constant(NamedTuple):
    """A function constant."""

    name: str
    type: str
    index: int
    start: int
    end: int
    token: Token


class Declarations(NamedTuple):
    tokens: List[Token]
    functions: List[Function]
    instantiations: List[Instantiation]
    constants: List[Constant]
    statements: List[Statement]  # every one at namespace scope

    def kernels(self) -> Dict[str, Tuple[Function, Optional[Instantiation]]]:
        """Kernels by host name. Of equal names the first counts; the lint reports the others."""
        found: Dict[str, Tuple[Function, Optional[Instantiation]]] = {}
        for function in self.functions:
            if function.kernel and (not function.template or function.arguments and _has_host_name(function)):
                found.setdefault(host_name(function), (function, self._specialisation(function)))
        for instantiation in self.instantiations:
            function = self.template(instantiation)
            if function is not None:
                found.setdefault(instantiation.host_name, (function, instantiation))
        return found

    def _specialisation(self, function: Function) -> Optional[Instantiation]:
        """A template's kernel that is defined by itself: template <> [[host_name("x")]] kernel void f<A>(...) {...}"""
        if not function.template:
            return None
        where = (function.start, function.end, self.tokens[function.start])
        return Instantiation(host_name(function), function.scope, function.place, function.arguments, *where)

    def template(self, instantiation: Instantiation) -> Optional[Function]:
        """The kernel template of an instantiation."""
        return next((f for f in self.functions if f.kernel and f.place == instantiation.template), None)


def _has_host_name(function: Function) -> bool:
    return any(attribute.name == "host_name" for attribute in function.attributes)


def host_name(function: Function) -> str:
    for attribute in function.attributes:
        if attribute.name == "host_name":
            return string_value(list(attribute.arguments))
    return function.qualified


def read_declarations(tokens: List[Token]) -> Declarations:
    """Walks the statements at namespace scope."""
    result = Declarations(tokens, [], [], [], [])
    values = constant_values(tokens)
    for start, end, scope in statements(tokens, 0, len(tokens)):
        result.statements.append((start, end, scope))
        statement = tokens[start : end + 1]
        if statement[0].text == "template" and (len(statement) < 2 or statement[1].text != "<"):
            instantiation = _instantiation(tokens, start, end, scope)
            if instantiation:
                result.instantiations.append(instantiation)
            continue
        constant = _constant(tokens, start, end, values)
        if constant:
            result.constants.append(constant)
            continue
        function = _function(tokens, start, end, scope, values)
        if function:
            result.functions.append(function)
    return result


def read_attributes(tokens: List[Token], start: int, end: int) -> List[Tuple[int, int, Tuple[Attribute, ...]]]:
    """Every [[...]] group in tokens[start:end] outside parentheses, as (first, last, attributes)."""
    groups = []
    i = start
    while i < end:
        if is_attribute(tokens, i):
            close = matching(tokens, i)
            groups.append((i, close, tuple(_attribute(part) for part in split(tokens[i + 2 : close - 1]) if part)))
            i = close
        elif tokens[i].text in OPEN:
            i = matching(tokens, i)
        i += 1
    return groups


def _attribute(part: List[Token]) -> Attribute:
    opening = next((k for k, t in enumerate(part) if t.text == "("), None)
    head = part if opening is None else part[:opening]
    arguments = () if opening is None else tuple(part[opening + 1 : -1])
    name = "".join(_SPACES.get(t.text, t.text) for t in head)  # [[threadgroup(n)]] is a macro here
    return Attribute(name, arguments, part[0])


def _instantiation(tokens: List[Token], start: int, end: int, scope: str) -> Optional[Instantiation]:
    attributes = {a.name: a for group in read_attributes(tokens, start, end) for a in group[2]}
    words = [t.text for t in tokens[start:end]]
    if "kernel" not in attributes and "host_name" not in attributes and "kernel" not in words:
        return None
    name = string_value(list(attributes["host_name"].arguments)) if "host_name" in attributes else ""
    return Instantiation(name, scope, -1, "", start, end, tokens[start])


def _constant(tokens: List[Token], start: int, end: int, values: Dict[str, int]) -> Optional[Constant]:
    for first, _, attributes in read_attributes(tokens, start, end):
        for attribute in attributes:
            if attribute.name == "function_constant":
                name = tokens[first - 1]
                words = [t.text for t in tokens[start : first - 1]]
                kind = " ".join(w for w in words if w not in ("__constant", "const", "static", "constexpr", "extern"))
                return Constant(name.text, kind, _integer(attribute, values), start, end, name)
    return None


def _function(tokens: List[Token], start: int, end: int, scope: str, values: Dict[str, int]) -> Optional[Function]:
    if tokens[end].text != "}":
        return None
    found = declarator(tokens, start, end)
    if found is None:
        return None
    name, arguments, opening = found
    close = body = matching(tokens, opening)
    while body < end and not (tokens[body].text == "{" and matching(tokens, body) == end):
        body = matching(tokens, body) + 1 if tokens[body].text in OPEN else body + 1
    groups = read_attributes(tokens, start, opening) + read_attributes(tokens, close, body)
    attributes = tuple(a for group in groups for a in group[2])
    kernel = any(a.name == "kernel" for a in attributes) or any(t.text == "kernel" for t in tokens[start:opening])
    odd = tokens[name].text in ("void", "auto") or not ends_head(tokens[close + 1 : body])
    if body >= end or kernel and odd:
        return None
    parameters = _parameters(tokens[opening + 1 : close], values) if kernel else ()
    template = tokens[start].text == "template"
    place = tokens[name].start
    where = (place, start, opening, close, body, end)
    return Function(tokens[name].text, scope, *where, template, arguments, kernel, attributes, parameters)


def declarator(tokens: List[Token], i: int, end: int) -> Optional[Tuple[int, str, int]]:
    """Of a function that tokens[i:end] may declare: the token of its name, the template arguments if it specialises a
    template, and the '(' of its parameters."""
    while tokens[i].text == "template":
        i = max(matching_angle(tokens, i + 1), i + 1) + 1
    name, arguments = i, ""
    while i < end and tokens[i].text not in ("{", "="):
        text = tokens[i].text
        if text == "operator":
            return _operator(tokens, i)
        if text == "(":
            return (name, arguments, i) if tokens[name].kind == "identifier" else None
        if text in CALLS and tokens[i + 1].text == "(" or text == "[":
            i = matching(tokens, i + (text != "["))
        elif text == "<" and matching_angle(tokens, i) > 0:
            close = matching_angle(tokens, i)
            arguments = spell(tokens[i + 1 : close])
            i = close
        else:
            name, arguments = i, ""
        i += 1
    return None


def _operator(tokens: List[Token], i: int) -> Tuple[int, str, int]:
    opening = next(k for k in range(i + 1, len(tokens)) if tokens[k].text == "(")
    opening += 2 * (opening == i + 1)  # operator()
    return i, "", opening


def ends_head(tokens: List[Token]) -> bool:
    """Whether this may stand between a kernel's parameters and its body."""
    inside = {k for first, last, _ in read_attributes(tokens, 0, len(tokens)) for k in range(first, last + 1)}
    return [t.text for k, t in enumerate(tokens) if k not in inside] in ([], ["noexcept"], ["->", "void"])


def _parameters(tokens: List[Token], values: Dict[str, int]) -> Tuple[Parameter, ...]:
    return placed([_parameter(part, values) for part in split(tokens) if part])


def placed(parameters: List[Parameter]) -> Tuple[Parameter, ...]:
    """Pointers and references whose attributes do not say so get a kind, and the first free index, in order."""
    said = [p.kind in ("buffer", "threadgroup") and any(a.name == p.kind for a in p.attributes) for p in parameters]
    taken = {(p.kind, p.index) for p, is_said in zip(parameters, said) if is_said}
    found = []
    for parameter, is_said in zip(parameters, said):
        if parameter.shape != "value" and not is_said:
            kind = "threadgroup" if parameter.space == "threadgroup" else "buffer"
            index = next(n for n in range(1000) if (kind, n) not in taken)
            taken.add((kind, index))
            parameter = parameter._replace(kind=kind, index=index)
        found.append(parameter)
    return tuple(found)


def _parameter(part: List[Token], values: Dict[str, int]) -> Parameter:
    groups = read_attributes(part, 0, len(part))
    attributes = tuple(a for group in groups for a in group[2])
    inside = {k for first, last, _ in groups for k in range(first, last + 1)}
    plain = [t for k, t in enumerate(part) if k not in inside]
    depth_free = [t for t in plain if t.text in ("*", "&", "[")]
    bracket = next((k for k, t in enumerate(plain) if t.text == "["), len(plain))
    name = next((t for t in reversed(plain[:bracket]) if t.kind == "identifier"), part[0])
    where = max((k for k, t in enumerate(plain[:bracket]) if t is name), default=0)
    kind_tokens = plain[:where]
    space = next((_SPACES[t.text] for t in plain if t.text in _SPACES), "")
    shape = "value"
    if depth_free:
        shape = "reference" if depth_free[-1].text == "&" else "pointer"
    pointer_at = next((k for k, t in enumerate(kind_tokens) if t.text in ("*", "&")), len(kind_tokens))
    constant = space == "constant" or any(t.text == "const" for t in kind_tokens[:pointer_at])
    named = {a.name: a for a in attributes}
    gate = spell(list(named["function_constant"].arguments)) if "function_constant" in named else ""
    kind, index = "", -1
    if "buffer" in named:
        kind, index = "buffer", _integer(named["buffer"], values)
    elif "threadgroup" in named:
        kind, index = "threadgroup", _integer(named["threadgroup"], values)
    else:
        kind = next((a.name for a in attributes if a.name != "function_constant"), "")
    return Parameter(name.text, kind, index, space, shape, constant, gate, attributes, tuple(kind_tokens), name)


def _integer(attribute: Attribute, values: Dict[str, int]) -> int:
    value = evaluate(list(attribute.arguments), values)
    if value is None:
        text = spell(list(attribute.arguments))
        raise CompileError(_at(attribute.token, f"{attribute.name}({text}): the index must be a constant integer"))
    return value


def _at(token: Token, message: str) -> str:
    return f"{token.file}:{token.line}: error: {message}"
