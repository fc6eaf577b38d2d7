"""One seeded bug."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """`old`, which occurs once in `file`, becomes `new`.

    expected: "checker" (whether or not the numbers show it too), "numbers" (they alone), "fast math" (the numbers of
    the fast-math build alone), "strict check" (it alone), or "equivalent", for `reason`.
    """

    name: str
    file: str
    old: str
    new: str
    expected: str
    reason: str = ""

    def apply(self, text: str) -> str:
        """The mutated text. Raises ValueError unless `old` occurs exactly once."""
        if text.count(self.old) != 1:
            raise ValueError(f"mutant {self.name}: {self.file} has {text.count(self.old)} times {self.old!r}")
        return text.replace(self.old, self.new)
