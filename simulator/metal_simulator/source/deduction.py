"""Template arguments of an explicit instantiation that gives only its signature: `template void f(device float*);`."""

from __future__ import annotations

from typing import Dict, List, Optional

from .tokens import OPEN, Token, matching, matching_angle, spell, split


def deduced(template: List[Token], parameters: List[List[Token]], arguments: List[List[Token]]) -> Optional[str]:
    """Template arguments as text; None when they do not follow from the signature.

    template: the tokens between the template's angle brackets; parameters, arguments: of the template and of the
    instantiation, without attributes.
    """
    names = [name for name in map(_name, split(template)) if name]
    values: Dict[str, str] = {}
    if len(parameters) != len(arguments):
        return None
    for parameter, argument in zip(parameters, arguments):
        _match(parameter, argument, set(names) - set(values), values)
    found = [values[name] for name in names if name in values]
    return ", ".join(found) if found and set(names[: len(found)]) == set(values) else None


def without_attributes(part: List[Token]) -> List[Token]:
    kept, i = [], 0
    while i < len(part):
        if part[i].text == "[" and i + 1 < len(part) and part[i + 1].text == "[":
            i = matching(part, i)
        else:
            kept.append(part[i])
        i += 1
    return kept


def _name(parameter: List[Token]) -> str:
    """Of a template parameter: `typename T`, `int N = 4`."""
    end = next((k for k, t in enumerate(parameter) if t.text == "="), len(parameter))
    named = [t.text for t in parameter[:end] if t.kind == "identifier"]
    return named[-1] if named else ""


def _match(parameter: List[Token], argument: List[Token], unknown: set, values: Dict[str, str]) -> None:
    """Walks both; where the template says T, the argument's tokens up to the next common one are its value."""
    k = 0
    for i, token in enumerate(parameter):
        if k >= len(argument):
            return
        if token.text in unknown and token.text not in values:
            after = parameter[i + 1].text if i + 1 < len(parameter) else ""
            end = _until(argument, k, after)
            values[token.text] = spell(argument[k:end])
            k = end
        elif token.text in values and token.text != argument[k].text:
            k += len(values[token.text].split(" "))
        else:
            k += 1


def _until(tokens: List[Token], start: int, text: str) -> int:
    i = start
    while i < len(tokens) and (i == start or tokens[i].text != text):
        if tokens[i].text == "<":
            i = max(matching_angle(tokens, i), i)
        elif tokens[i].text in OPEN:
            i = matching(tokens, i)
        i += 1
    return i
