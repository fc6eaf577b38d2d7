"""Words that are no names: keywords of Metal, and what Metal's headers take at global scope or as macros.

Most of them are keywords to clang, too, or stand-in macros, and show in the tokens: `found_in_tokens`. The rest are
ordinary names to clang, and show as declarations in its syntax tree: `of_declaration`.
"""

from __future__ import annotations

import re
from typing import Collection, Iterable, Iterator, List, Set, Tuple

from ..source.tokens import Token, matching, matching_angle, split

_TYPES = set(
    "void bool char short int long float double signed unsigned auto wchar_t char16_t char32_t "
    "half bfloat uchar ushort uint ulong size_t ptrdiff_t".split()
)
_SPACES = set("device constant thread threadgroup threadgroup_imageblock ray_data object_data".split())
_STAGES = set("kernel vertex fragment".split())
_OTHER_OPERATORS = set("and or not xor compl bitand bitor and_eq or_eq xor_eq not_eq".split())
_VALUES = set(
    "this true false nullptr sizeof alignof typeid new delete throw const_cast static_cast reinterpret_cast "
    "dynamic_cast static_assert noexcept alignas decltype as_type".split()
)
_QUALIFIERS = {"const", "volatile"}
_INTRODUCERS = {"struct", "class", "union", "enum", "namespace", "goto"}
_STATEMENTS = set("asm break case catch continue default do else for if return switch try while".split())
_KEYWORDS = (
    _TYPES | _SPACES | _STAGES | _VALUES | _QUALIFIERS | _INTRODUCERS | _STATEMENTS | set(
        "constexpr explicit export extern friend inline main metal mutable operator private protected public register "
        "restrict static template thread_local typedef typename using virtual".split()
    )
)  # fmt: skip
_GLOBAL = set("llong ullong quad complex imaginary".split())
# Their names are listed for the second preprocessing, which leaves them as they are.
_LIMITS = "DECIMAL_DIG DIG EPSILON MANT_DIG MAX MAX_10_EXP MAX_EXP MIN MIN_10_EXP MIN_EXP RADIX".split()
_NUMBERS = "E LOG2E LOG10E LN2 LN10 PI PI_2 PI_4 1_PI 2_PI 2_SQRTPI SQRT2 SQRT1_2".split()
MACROS = frozenset(
    [f"{kind}_{limit}" for kind in ("FLT", "HALF", "BFLT", "DBL") for limit in _LIMITS]
    + [f"M_{number}{suffix}" for number in _NUMBERS for suffix in ("", "_F", "_H", "_BF")]
    + [f"{kind}_{limit}" for kind in ("CHAR", "SCHAR", "SHRT", "INT", "LONG", "LLONG") for limit in ("MAX", "MIN")]
    + "UCHAR_MAX USHRT_MAX UINT_MAX ULONG_MAX ULLONG_MAX CHAR_BIT FP_ILOGB0 FP_ILOGBNAN HUGE_VAL HUGE_VALF HUGE_VALH "
    "HUGE_VALBF INFINITY NAN MAXFLOAT MAXHALF MAXBFLOAT MAXDOUBLE assert".split()
)
_MACRO = re.compile(rf"\b(?:{'|'.join(MACROS)})\b".encode())
_WORDS = _KEYWORDS | _OTHER_OPERATORS | MACROS

_SPELLED = {
    "__global": "device",
    "__constant": "constant",
    "__local": "threadgroup",
    "__private": "thread",
    **{f"__{word}{end}": word for word in ("inline", "const", "volatile", "signed") for end in ("", "__")},
}
_TWO_WORDS = {
    "signed": {"char", "short", "int", "long"},
    "unsigned": {"char", "short", "int", "long"},
    "short": {"int", "signed", "unsigned"},
    "long": {"int", "long", "double", "signed", "unsigned"},
    "int": {"signed", "unsigned", "short", "long"},
    "char": {"signed", "unsigned"},
    "double": {"long"},
}
_AFTER_NAME = {"=", ";", ",", ")", "[", "{", "(", ":", "..."}
_AFTER_DECLARATOR = {"=", ";", ",", ")", "["}
_OFTEN_TYPEDEFS = {"uchar", "ushort", "uint", "ulong", "size_t", "ptrdiff_t"}


def reason(word: str) -> str:
    """Why a word is no name."""
    if word in MACROS:
        return f"'{word}' is a macro of Metal's headers: it cannot be a name"
    if word in _GLOBAL:
        return f"'{word}' is taken at global scope by Metal's headers: choose another name, or put it into a namespace"
    kind = "another spelling of an operator" if word in _OTHER_OPERATORS else "a keyword of Metal"
    return f"'{word}' is {kind}: it cannot be a name"


def name_macros(texts: Iterable[bytes]) -> bool:
    """Whether one of the macros occurs at all, so that the tokens with macros expanded do not tell everything."""
    return any(_MACRO.search(text) for text in texts)


def found_in_tokens(tokens: List[Token], refused: Collection[Tuple[str, int]] = ()) -> Iterator[Tuple[Token, str]]:
    """The places (preprocessed tokens of the user's files) where one of the words stands as a name, and the word.

    refused: files and lines to which clang objects; what may be a name or an operand there is a name.
    """
    places = _without_doubles(tokens)
    tokens = [token._replace(text=_SPELLED.get(token.text, token.text)) for token in places]
    named = _listed(tokens)
    headers = _template_headers(tokens)
    inside = _in_attributes(tokens)
    for i in range(1, len(tokens) - 1):
        if tokens[i].text in _WORDS and i not in inside:
            doubtful = (tokens[i].file, tokens[i].line) in refused and _may_be_name(tokens, i)
            if i in named or _is_name(tokens, i, i in headers) or doubtful:
                yield places[i], tokens[i].text


def _without_doubles(tokens: List[Token]) -> List[Token]:
    """`constant` is two words to clang, the second of them `const`; GNU's `__extension__` says nothing."""
    return [
        token
        for before, token in zip([None, *tokens], tokens)
        if token.text != "__extension__" and not (before and before.text == "__constant" and token.text == "const")
    ]


def _listed(tokens: List[Token]) -> Set[int]:
    """Token indices of enumerators and of the names of structured bindings."""
    found: Set[int] = set()
    place = {token.start: i for i, token in enumerate(tokens)}
    for i, token in enumerate(tokens):
        opening = None
        if token.text == "enum":
            opening = next((k for k in range(i, len(tokens)) if tokens[k].text in ("{", ";", "(", ")", ">", ",")), None)
        elif token.text == "auto":
            opening = next((k for k in range(i + 1, len(tokens)) if tokens[k].text not in ("&", "&&")), None)
        if opening is not None and tokens[opening].text == ("{" if token.text == "enum" else "["):
            for part in split(tokens[opening + 1 : matching(tokens, opening)]):
                found.update(place[first.start] for first in part[:1])
    return found


def _template_headers(tokens: List[Token]) -> Set[int]:
    found: Set[int] = set()
    for i, token in enumerate(tokens[:-1]):
        if token.text == "template" and tokens[i + 1].text == "<":
            found.update(range(i + 2, matching_angle(tokens, i + 1)))
    return found


def _in_attributes(tokens: List[Token]) -> Set[int]:
    found: Set[int] = set()
    for i, (token, following) in enumerate(zip(tokens, tokens[1:])):
        if token.text == "[" and following.text == "[" and token.end == following.start:
            found.update(range(i, matching(tokens, i)))
    return found


def _is_name(tokens: List[Token], i: int, in_header: bool) -> bool:
    word, before, after = tokens[i].text, tokens[i - 1].text, tokens[i + 1].text
    if before in (".", "->"):
        result = before == "->" and tokens[i - 2].text in {")", "noexcept", *_QUALIFIERS, *_SPACES}
        return word not in ("template", "operator") and not result
    if before in _INTRODUCERS or before == "typename" and in_header:
        return not (
            (word == "alignas" and after == "(")
            or (before == "enum" and word in ("class", "struct"))
            or (before == "namespace" and word == "metal")
            or (before == "typename" and after not in (",", ">", "="))
        )
    if after == "=" and before == "using":
        return word not in _OFTEN_TYPEDEFS
    if after == ":" and before in (";", "{", "}"):
        return word not in ("default", "public", "private", "protected")
    if word == "operator" and _is_operator_function(tokens, i):
        return False
    followed = after in (";", "=") if word in _QUALIFIERS else after in _AFTER_NAME or (in_header and after == ">")
    if tokens[i - 1].kind == "identifier" and (before not in _WORDS or before in _TYPES):
        return followed and not _is_part(tokens, i)
    if before in ("*", "&", "&&", ">"):
        operand = word in _VALUES | MACROS and not _ends_type(tokens, i - 1)
        more = {",", ")"} if word == "restrict" else {"=", ";", ",", ")"} if word in _QUALIFIERS else set()
        ends = _AFTER_DECLARATOR - more | ({">"} if in_header else set())
        return after in ends and not operand and not (before == ">" and word in ("class", "typename"))
    return False


def _is_operator_function(tokens: List[Token], i: int) -> bool:
    """`operator=(`, `operator()(`, ... `operator float()`."""
    after = [t.text for t in tokens[i + 1 : i + 4]]
    if after[:1] in (["("], ["["]):
        return after[1:2] in ([")"], ["]"]) and after[2:] == ["("]
    return after[1:2] == ["("] or after[:1] not in (["="], [","], [";"], [")"], [":"], ["{"])


def _ends_type(tokens: List[Token], i: int) -> bool:
    """Whether `*` or `&` makes a pointer or reference, in Metal one with an address space; whether `>` ends a type with
    which a statement begins."""
    if tokens[i].text != ">":
        return tokens[i - 1].text in _TYPES or tokens[i - 2].text in _SPACES | _QUALIFIERS
    first = next((k + 1 for k in range(i, -1, -1) if tokens[k].text in (";", "{", "}", "(")), 0)
    opening = next(k for k in range(first, i + 1) if tokens[k].text in ("<", ">"))
    names = all(t.kind == "identifier" or t.text == "::" for t in tokens[first:opening])
    return names and matching_angle(tokens, opening) == i


def _may_be_name(tokens: List[Token], i: int) -> bool:
    """Of a word that clang's parser stumbled over."""
    word, before, after = tokens[i].text, tokens[i - 1], tokens[i + 1].text
    if word in _TYPES:
        return before.text in {*_TYPES, ","} and after in ("=", ";", "[", "(", ":")
    if before.text == ",":
        return after in ("=", ";", "[")
    if word == "operator" and _is_operator_function(tokens, i):
        return False
    operand = word in _VALUES | MACROS
    if before.text in ("*", "&", "&&", ">"):
        return after in _AFTER_NAME and not operand
    typed = before.kind == "identifier" and before.text not in _STATEMENTS | _OTHER_OPERATORS | _VALUES
    return typed and after in _AFTER_NAME and not _is_part(tokens, i)


def _is_part(tokens: List[Token], i: int) -> bool:
    """Whether a word behind a type goes on with it: `unsigned int`, `float device (*p)[4]`, `a and (b)`."""
    word, before, after = tokens[i].text, tokens[i - 1].text, tokens[i + 1].text
    if word in _TWO_WORDS.get(before, ()):
        called = after == "(" and tokens[i + 2].text not in ("*", "&") and tokens[i - 2].text != "operator"
        return after != ";" and not ((after in ("=", "[") or called) and _is_outside(tokens, i))
    if word in _OTHER_OPERATORS:
        return before not in _TYPES and after not in ("=", ";", ",", ")")
    if after == "(":
        close = matching(tokens, i + 1)
        declared = close + 1 < len(tokens) and tokens[close + 1].kind == "identifier"
        aligned = word == "alignas" and declared and tokens[close + 1].text not in _QUALIFIERS
        return aligned or (word in _SPACES and tokens[i + 2].text in ("*", "&"))
    return word in _OFTEN_TYPEDEFS and after == ";" and _is_typedef(tokens, i)


def _is_outside(tokens: List[Token], i: int) -> bool:
    """Whether a token is in no parentheses or template arguments of its statement."""
    depth = 0
    for k in range(i, -1, -1):
        depth += (tokens[k].text in (")", "]", ">")) - (tokens[k].text in ("(", "[", "<"))
        if depth < 0 or tokens[k].text in (";", "{", "}"):
            break
    return depth >= 0


def _is_typedef(tokens: List[Token], i: int) -> bool:
    """Whether a statement says again what the headers say, `typedef unsigned int uint;`: clang compares the types."""
    start = next((k for k in range(i, -1, -1) if tokens[k].text in (";", "{", "}")), -1)
    return tokens[start + 1].text == "typedef"


# Ordinary names to clang.
_DECLARED = (
    _STAGES | _OFTEN_TYPEDEFS | MACROS | set("bfloat as_type metal restrict main".split())
    | (_SPACES - set(_SPELLED.values()))
)  # fmt: skip


def of_declaration(kind: str, rest: str, is_global: bool) -> str:
    """The word that a declaration in clang's syntax tree has as its name, or "". rest: of the line, after its place."""
    if kind in ("UsingDirectiveDecl", "UsingDecl", "UsingShadowDecl"):
        return ""
    for name in re.sub(r"'[^']*'", "", rest).split():
        if name in _DECLARED or (is_global and name in _GLOBAL):
            again = kind == "NamespaceDecl" and name == "metal"
            again = again or (kind in ("TypedefDecl", "TypeAliasDecl") and is_global and name in _OFTEN_TYPEDEFS)
            return "" if again else name
    return ""
