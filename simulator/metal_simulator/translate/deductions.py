"""Vectors from which arguments of templates are deduced, also through aliases, and those of bool: see typed.py."""

from __future__ import annotations

from typing import Dict, Iterator, List, Optional, Set, Tuple

from clang.cindex import Cursor, CursorKind

from ..source.tokens import Token, matching_angle, spell, split
from .collecting import Collecting
from .cursors import TEMPLATE_PARAMETERS, children, is_own, place, span
from .edits import Edit, Wrap
from .reading import Reading


class Deductions(Collecting):
    """Edits of what arguments of templates are deduced from."""

    def __init__(self, reading: Reading, text: str):
        super().__init__(reading, text)
        self.aliases: Dict[str, int] = {}  # of templates of aliases for vectors: which argument is the components' type
        self.alias_edits: Dict[str, List[Edit]] = {}  # where arguments are deduced through them
        self.used: Set[int] = set()  # places of their names where they are used
        self.deducing: List[Tuple[int, int, Set[str]]] = []  # places where arguments are deduced, and their names

    def _specialisation(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        self.edits += self._deduced(cursor, cursor)
        self._deduces(cursor, [k for k in kids if k.kind == CursorKind.TEMPLATE_REF])

    def _deduces(self, template: Cursor, places: List[Cursor]) -> None:
        names = {k.spelling for k in children(template) if k.kind == CursorKind.TEMPLATE_TYPE_PARAMETER}
        self.deducing += [(*span(where), names) for where in places]

    def _deduced(self, cursor: Cursor, template: Cursor) -> Iterator[Edit]:
        """`vec<T, N>` from which arguments of a template are deduced: with names of its parameters."""
        tokens, names = self.reading.tokens, {k.spelling for k in children(template) if k.kind in TEMPLATE_PARAMETERS}
        for kid in children(cursor):
            if kid.kind != CursorKind.TEMPLATE_REF or not self._is_vec(kid):
                continue
            i = self.reading.at(span(kid)[0])
            if names.isdisjoint(t.text for t in tokens[i + 2 : max(matching_angle(tokens, i + 1), i + 2)]):
                continue
            start = tokens[i].start
            scope = "" if tokens[i - 1].text == "::" else "::metal::"
            if tokens[i + 2].text == "bool":
                yield Edit(start, tokens[i + 3].end, f"{scope}__bool_vector<")
                yield from self._signed(template, tokens[i + 4].text)
            else:
                yield Edit(start, tokens[i].end, f"{scope}__vec")

    def _is_vec(self, cursor: Cursor) -> bool:
        return cursor.spelling == "vec" and cursor.referenced is not None and not is_own(cursor.referenced)

    def _signed(self, template: Cursor, name: str) -> Iterator[Edit]:
        """A number that is deduced from a class must have the type that it has there."""
        for kid in children(template):
            if kid.kind == CursorKind.TEMPLATE_NON_TYPE_PARAMETER and kid.spelling == name:
                yield Edit(span(kid)[0], place(kid), "int ")

    def _alias(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        """An alias template, through which arguments may be deduced."""
        names = [k.spelling for k in kids if k.kind in TEMPLATE_PARAMETERS]
        self.deducing.append((*span(cursor), set(names)))
        for kid in kids:
            self.alias_edits.setdefault(cursor.spelling, []).extend(self._deduced(kid, cursor))
            for of in (k for k in children(kid) if k.kind == CursorKind.TEMPLATE_REF):
                which = 0 if self._is_vec(of) else self.aliases.get(of.spelling)
                component = spell(self._component(self.reading.at(span(of)[0]), which))
                if component in names:
                    self.aliases[cursor.spelling] = names.index(component)

    def _component(self, name: int, i: Optional[int]) -> List[Token]:
        """Of `name<A, B>` at a token: the i-th argument, if it has one."""
        tokens = self.reading.tokens
        close = matching_angle(tokens, name + 1) if tokens[name + 1].text == "<" else -1
        arguments = split(tokens[name + 2 : close]) if close > name else []
        return arguments[i] if i is not None and i < len(arguments) else []

    def _template_name(self, cursor: Cursor, parent: Optional[Cursor], kids: List[Cursor]) -> None:
        if self.aliases and cursor.referenced is not None:
            if cursor.referenced.kind == CursorKind.TYPE_ALIAS_TEMPLATE_DECL:
                self.used.add(span(cursor)[0])

    def deduce_through_aliases(self) -> None:
        """An alias for a vector, from which arguments are deduced: where its components may be bool, which clang has no
        such vectors of, a byte takes the place of bool.

        `X::template name<T>` of an X that depends on template parameters is known by its name alone."""
        tokens = self.reading.tokens
        uses: List[Tuple[str, List[Token], bool]] = []
        for i, token in enumerate(tokens[:-1] if self.aliases else ()):
            if token.text in self.aliases and (token.start in self.used or tokens[i - 1].text == "template"):
                component = self._component(i, self.aliases[token.text])
                words = {t.text for t in component}
                deduced = any(a <= token.start < b and words & names for a, b, names in self.deducing)
                uses += [(token.text, component, deduced)] if component else []
        through = {name for name, _, deduced in uses if deduced}
        self.edits += [edit for name in sorted(through) for edit in self.alias_edits[name]]
        for _, component, deduced in uses:
            if through and not deduced:  # of any alias: what it makes may be passed where another is deduced
                self.wraps.append(Wrap(component[0].start, component[-1].end, "::metal::__component<", ">"))

    def overload(self, template: Cursor) -> None:
        tokens, instead, names = self.reading.tokens, [], set()
        for parameter in (k for k in children(template) if k.kind == CursorKind.PARM_DECL):
            for kid in children(parameter):
                i = self.reading.at(span(kid)[0])
                if kid.kind == CursorKind.TEMPLATE_REF and tokens[i].text == "vec" and tokens[i + 3].text == ",":
                    scope = "" if tokens[i - 1].text == "::" else "::metal::"
                    instead.append(Edit(tokens[i].start, tokens[i + 3].end, f"{scope}__bool_vector<"))
                    names.add(tokens[i + 2].text)
        begin, end = span(template)
        types = [k for k in children(template) if k.kind == CursorKind.TEMPLATE_TYPE_PARAMETER]
        deduced = [span(kid)[1] for kid in types if kid.spelling in names]
        instead += [Edit(place, place, " = bool") for place in deduced]
        if deduced:
            self.overloads.append(Edit(end, end, f" {self._rendered(begin, end, instead)}"))
