"""Turning preprocessed Metal into what clang reads, for the check (all kernels) or for running (one kernel)."""

from __future__ import annotations

import re
from typing import Callable, Dict, List, NamedTuple, Optional, Set, Tuple

from .comparisons import comparison_edits
from .constructors import Edit, constructor_edits
from .declarations import Constant, Declarations, Function, Instantiation, Parameter, read_attributes
from .functions import function_edits
from .inputs import input_edits
from .members import member_edits
from .spaces import space_edits
from .tokens import OPEN, Token, matching, matching_angle, spell, split

POSITIONS = {
    "thread_position_in_grid": "::metal::__position(c->position_in_grid)",
    "thread_position_in_threadgroup": "::metal::__position(c->position)",
    "threadgroup_position_in_grid": "::metal::__shape(c->shape, 0)",
    "threadgroups_per_grid": "::metal::__shape(c->shape, 3)",
    "threads_per_threadgroup": "::metal::__shape(c->shape, 6)",
    "dispatch_threads_per_threadgroup": "::metal::__shape(c->shape, 6)",
    "grid_origin": "::metal::__origin()",
    "grid_size": "::metal::__threads_per_grid(c->shape)",
    "threads_per_grid": "::metal::__threads_per_grid(c->shape)",
    "simdgroups_per_threadgroup": "::metal::__shape(c->shape, 9)",
    "dispatch_simdgroups_per_threadgroup": "::metal::__shape(c->shape, 9)",
    "thread_index_in_threadgroup": "::metal::__scalar(c->thread_index)",
    "thread_index_in_simdgroup": "::metal::__scalar(c->lane)",
    "simdgroup_index_in_threadgroup": "::metal::__scalar(c->simdgroup)",
    "threads_per_simdgroup": "::metal::__scalar(32)",
    "thread_execution_width": "::metal::__scalar(32)",
    "quadgroup_index_in_threadgroup": "::metal::__scalar(c->thread_index / 4)",
    "thread_index_in_quadgroup": "::metal::__scalar(c->thread_index % 4)",
    "quadgroups_per_threadgroup": "::metal::__quadgroups(c->shape)",
    "dispatch_quadgroups_per_threadgroup": "::metal::__quadgroups(c->shape)",
}


_RENDERING = ("vertex", "fragment")
_PLAIN_FLOAT = re.compile(r"(?=.*[.ep])(?:0x[\da-f.]+p|[\d.']+(?:e|$))[+-]?\d*")
THREADGROUP_LIMIT_MESSAGE = "more than 32768 bytes of threadgroup memory"


class Rewritten(NamedTuple):
    """The text for clang, the text before, and the edits between them (for columns of diagnostics)."""

    text: str
    original: str
    edits: List[Edit]


class ThreadgroupVariable(NamedTuple):
    """`alignas(a) threadgroup T name[N], ...;` in a kernel."""

    start: int
    end: int  # of the semicolon
    names: Tuple[Token, ...]
    text: str


def for_check(text: str, declarations: Declarations) -> Rewritten:
    edits = _common_edits(text, declarations, limit=True)
    for constant in declarations.constants:
        edits.append(
            _replace(
                declarations.tokens,
                constant.start,
                constant.end,
                f"extern const __constant {constant.type} {constant.name};",
            )
        )
    edits += _definedness(declarations.tokens, lambda name: "true")
    for instantiation in declarations.instantiations:
        edits += _drop_attributes(declarations.tokens, instantiation.start, instantiation.end)
    return _apply(text, edits)


def for_run(
    text: str, declarations: Declarations, kernel: Tuple[Function, Optional[Instantiation]], constants: Dict[str, str]
) -> Rewritten:
    """constants: values as C++ text; a constant without value stays an undefined symbol, metal_unset_<name>."""
    tokens = declarations.tokens
    edits = _common_edits(text, declarations)
    optional = {tokens[i + 2].text for i in range(len(tokens) - 2) if tokens[i].text == "is_function_constant_defined"}
    for constant in declarations.constants:
        edits.append(_replace(tokens, constant.start, constant.end, _definition(constant, constants, optional)))
    edits += _derived(declarations, {c.name for c in declarations.constants} - set(constants) - optional)
    edits += _definedness(tokens, lambda name: "true" if name in constants else "false")
    for instantiation in declarations.instantiations:
        edits.append(_replace(tokens, instantiation.start, instantiation.end, ""))
    for function in declarations.functions:
        if function.kernel and not function.template:
            edits.append(Edit(tokens[function.start].start, tokens[function.start].start, "static "))
    rewritten = _apply(text, edits)
    return rewritten._replace(text=rewritten.text + _entry(kernel))


def _derived(declarations: Declarations, unset: Set[str]) -> List[Edit]:
    """Constants computed from function constants without a value have none either."""
    tokens, edits, roots = declarations.tokens, [], {name: name for name in unset}
    for start, end, _ in declarations.statements:
        words = [t.text for t in tokens[start:end]]
        if "=" not in words or "__constant" not in words[: words.index("=")] or "function_constant" in words:
            continue
        equals = words.index("=")
        root = next((roots[word] for word in words[equals:] if word in roots), None)
        if "(" in words[:equals] or "{" in words[:equals]:
            continue
        if root is not None and tokens[start + equals - 1].kind == "identifier":
            name = words[equals - 1]
            roots[name] = root
            kind = " ".join(w for w in words[: equals - 1] if w not in ("__constant", "const", "static", "constexpr"))
            text = f'extern __constant const {kind} {name} __asm__("metal_unset_{root}");'
            edits.append(_replace(tokens, start, end, text))
    return edits


def _definedness(tokens: List[Token], answer: Callable[[str], str]) -> List[Edit]:
    """is_function_constant_defined(name), answered."""
    return [
        _replace(tokens, i, i + 3, answer(tokens[i + 2].text))
        for i in range(len(tokens) - 3)
        if tokens[i].text == "is_function_constant_defined"
    ]


def _definition(constant: Constant, values: Dict[str, str], optional) -> str:
    if constant.name in values:
        return f"static __constant const {constant.type} {constant.name} = {values[constant.name]};"
    if constant.name in optional:  # guarded by is_function_constant_defined
        return f"static __constant const {constant.type} {constant.name} = {constant.type}();"
    return f'extern __constant const {constant.type} {constant.name} __asm__("metal_unset_{constant.name}");'


def _common_edits(text: str, declarations: Declarations, limit: bool = False) -> List[Edit]:
    tokens = declarations.tokens
    edits = comparison_edits(tokens) + function_edits(tokens) + constructor_edits(tokens)
    edits += (
        member_edits(tokens)
        + space_edits(declarations)
        + input_edits(declarations, POSITIONS)
        + _literals(tokens)
        + _redeclarations(declarations)
    )
    edits += _rendering(declarations)
    number = 0
    for function in declarations.functions:
        if not function.kernel:
            continue
        edits += _drop_attributes(tokens, function.start, function.body)
        for first, last, _ in _parameter_attributes(tokens, function):
            edits.append(_replace(tokens, first, last, ""))
        variables = threadgroup_variables(tokens, function, number)
        number += sum(len(v.names) for v in variables)
        totals: List[Tuple[int, str]] = []  # the block that sees it (its brace), and its name
        for variable in variables:
            check = ""
            if limit:
                blocks = _blocks(tokens, function.body, variable.start)
                before = next((name for block, name in reversed(totals) if block in blocks), "")
                name, check = _limit(variable, before)
                totals.append((blocks[-1], name))
            edits.append(_replace(tokens, variable.start, variable.end, variable.text + check))
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
                edits.append(_replace(tokens, start, end, ""))
    return edits


def _blocks(tokens: List[Token], start: int, index: int) -> List[int]:
    """Opening braces of the blocks around a token, outermost first."""
    found: List[int] = []
    for i in range(start, index):
        if tokens[i].text == "{":
            found.append(i)
        elif tokens[i].text == "}":
            found.pop()
    return found


def _limit(variable: ThreadgroupVariable, total: str) -> Tuple[str, str]:
    """Name of the sum of sizes up to this variable, and its definition with the test against Metal's limit."""
    name = f"__threadgroup_bytes_after_{variable.names[-1].text}"
    sizes = " + ".join([total] * bool(total) + [f"sizeof({n.text})" for n in variable.names])
    return name, (f'constexpr ulong {name} = {sizes}; static_assert({name} <= 32768, "{THREADGROUP_LIMIT_MESSAGE}");')


def _parameter_attributes(tokens: List[Token], function: Function):
    return read_attributes(tokens, function.open + 1, function.close)


def _drop_attributes(tokens: List[Token], start: int, end: int) -> List[Edit]:
    edits = [_replace(tokens, first, last, "") for first, last, _ in read_attributes(tokens, start, end)]
    i = start
    while i < end:
        if tokens[i].text in ("(", "["):
            i = matching(tokens, i)
        elif tokens[i].text == "kernel":
            edits.append(_replace(tokens, i, i, ""))
        i += 1
    return edits


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


def _argument(parameter: Parameter) -> str:
    if parameter.kind in ("buffer", "threadgroup"):
        table = "buffers" if parameter.kind == "buffer" else "threadgroup_arguments"
        holder = "reference" if parameter.shape == "reference" else "pointer"
        return f"::metal::__{holder}_argument{{metal::__argument(c->{table}, {parameter.index})}}"
    return POSITIONS[parameter.kind]


def _entry(kernel: Tuple[Function, Optional[Instantiation]]) -> str:
    function, instantiation = kernel
    name = f"::{function.qualified}" + (f"<{instantiation.arguments}>" if instantiation else "")
    arguments = ", ".join(_argument(p) for p in function.parameters)
    head = 'extern "C" void metal_entry(__private const ::metal::__context* c)'
    entry = f"{head} {{ {name}({arguments}); }}"
    return (
        f'\n# 1 "<entry point>"\n{head}; {in_scope(instantiation, entry)}\n'
        'extern "C" ulong metal_static_bytes(void) {\n'
        "  return (ulong)metal::__stop_metal_threadgroup - (ulong)metal::__start_metal_threadgroup;\n}\n"
    )


def in_scope(instantiation: Optional[Instantiation], text: str) -> str:
    """`text` in the namespaces where an instantiation stands, for its arguments are looked up from there."""
    names = instantiation.scope.split("::") if instantiation and instantiation.scope else []
    return "".join(f"namespace {name} {{ " for name in names) + text + " }" * len(names)


def _replace(tokens: List[Token], first: int, last: int, text: str) -> Edit:
    return Edit(tokens[first].start, tokens[last].end, text)


def _apply(text: str, edits: List[Edit]) -> Rewritten:
    """Applies edits, innermost dropped where they overlap, insertions first; every line keeps its number."""
    parts, position, kept = [], 0, []
    for edit in sorted(edits, key=lambda e: (e.start, e.start != e.end, -e.end)):
        if edit.start < position:
            continue
        replaced = text[edit.start : edit.end]
        parts += [text[position : edit.start], edit.text, "\n" * replaced.count("\n")]
        kept.append(edit._replace(text=edit.text + "\n" * replaced.count("\n")))
        position = edit.end
    return Rewritten("".join(parts + [text[position:]]), text, kept)
