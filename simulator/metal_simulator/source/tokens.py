"""A tokeniser for preprocessed C++, on which every reading and rewriting of Metal source works."""

from __future__ import annotations

import re
from typing import List, NamedTuple

# Longest first. '>' is always alone, so that '>>' closes two template argument lists.
_PUNCTUATION = [
    "->*",
    "<<=",
    "...",
    "::",
    "->",
    "++",
    "--",
    "<<",
    "<=",
    "==",
    "!=",
    "&&",
    "||",
    "+=",
    "-=",
    "*=",
    "/=",
    "%=",
    "&=",
    "|=",
    "^=",
    "##",
    ".*",
]
_TOKEN = re.compile(
    r"[ \t\r\f\v]*(?:(?P<identifier>[A-Za-z_$][\w$]*)"
    r"|(?P<newline>\n)"
    r"|(?P<comment>//[^\n]*|/\*.*?\*/)"
    r"|(?P<number>\.?\d(?:[eEpP][+-]|[\w.'])*)"
    r'|(?P<string>"(?:[^"\\\n]|\\.)*")'
    r"|(?P<character>'(?:[^'\\\n]|\\.)*')"
    rf"|(?P<punctuation>{'|'.join(re.escape(p) for p in _PUNCTUATION)}|[^ \t\r\f\v]))",
    re.DOTALL,
)
_DIRECTIVE = re.compile(r'#(?:[ \t]*(?:line[ \t]+)?(?P<line>\d+)[ \t]+"(?P<file>(?:[^"\\]|\\.)*)")?[^\n]*')

OPEN = {"(": ")", "[": "]", "{": "}"}
CLOSE = {v: k for k, v in OPEN.items()}


class Token(NamedTuple):
    """One token: its kind, its text, its place in the text [start, end), and the file and line it came from."""

    kind: str  # identifier, number, string, character, punctuation
    text: str
    start: int
    end: int
    file: str
    line: int


def tokenise(text: str, start: int = 0, end: int = -1, file: str = "", line: int = 1) -> List[Token]:
    """Tokens of text[start:end]; line markers change file and line, other directives (pragmas) are skipped."""
    end = len(text) if end < 0 else end
    tokens: List[Token] = []
    match, fresh_line = _TOKEN.match(text, start, end), True
    while match:
        kind, position = match.lastgroup, match.end()
        word = match[kind]
        if kind == "newline":
            line, fresh_line = line + 1, True
        elif kind == "comment":
            line += word.count("\n")
        elif fresh_line and word == "#":
            directive = _DIRECTIVE.match(text, position - 1, end)
            if directive["line"]:
                file, line = directive["file"].replace('\\"', '"').replace("\\\\", "\\"), int(directive["line"]) - 1
            position = directive.end()
        else:
            fresh_line = False
            tokens.append(Token(kind, word, position - len(word), position, file, line))
        match = _TOKEN.match(text, position, end)
    return tokens


def matching(tokens: List[Token], index: int) -> int:
    """Index of the bracket that closes the one at `index`; len(tokens) when it never closes."""
    depth = 0
    for i in range(index, len(tokens)):
        text = tokens[i].text
        if text in OPEN:
            depth += 1
        elif text in CLOSE:
            depth -= 1
            if depth == 0:
                return i
    return len(tokens)


_CONDITIONS = {"template", "enable_if", "conditional", "bool_constant", "integral_constant"}  # may take `a && b`


def matching_angle(tokens: List[Token], index: int, certain: bool = False) -> int:
    """Index of the '>' that closes the '<' at `index`, or -1 when this '<' is a comparison.

    certain: it is none, so that && and || may occur.
    """
    before = tokens[index - 1].text
    close = _matching_angle(tokens, index, certain or before in _CONDITIONS or before.endswith(("_t", "_v")))
    if close < 0 and before == "template":  # every other '<' in it may be a comparison: N < 4 ? 1 : 2
        close = _matching_angle(tokens, index, True, False)
    return close


def _matching_angle(tokens: List[Token], index: int, certain: bool, nested: bool = True) -> int:
    depth, i = 0, index
    while i < len(tokens):
        text = tokens[i].text
        named = nested and tokens[i - 1].kind == "identifier"  # else a comparison: sizeof(T) < 8
        if text == "<" and (i == index or named):
            depth += 1
        elif text == ">":
            depth -= 1
            if depth == 0:
                return i
        elif text in OPEN:
            i = matching(tokens, i)
        elif text in CLOSE or text == ";" or (text in ("&&", "||") and not certain):
            return -1
        i += 1
    return -1


def split(tokens: List[Token], separator: str = ",") -> List[List[Token]]:
    """Parts between separators that are outside every bracket, angle brackets included."""
    parts: List[List[Token]] = [[]]
    i = 0
    while i < len(tokens):
        text = tokens[i].text
        stop = i
        if text in OPEN:
            stop = matching(tokens, i)
        elif text == "<":
            stop = max(matching_angle(tokens, i), i)
        if text == separator:
            parts.append([])
        else:
            parts[-1].extend(tokens[i : stop + 1])
        i = stop + 1
    return parts if len(parts) > 1 or parts[0] else []


def spell(tokens: List[Token]) -> str:
    """Source text of tokens, on one line."""
    return " ".join(t.text for t in tokens)


def string_value(tokens: List[Token]) -> str:
    """Value of adjacent string literals."""
    return "".join(t.text[1:-1] for t in tokens if t.kind == "string")
