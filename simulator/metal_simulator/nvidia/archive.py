"""Programs built on one machine for another: a zip file of cubins and an index."""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from pathlib import Path
from typing import Dict, Iterable, Mapping, NamedTuple, Optional, Tuple

from .program import Program

INDEX = "index.json"


class Key(NamedTuple):
    """What a program was built from. constants: sorted; empty for a program whose constants are set after loading."""

    source: str  # name of the .metal file
    kernel: str
    constants: Tuple[Tuple[str, object], ...]
    matrix: str
    variant: str = ""  # of the sources, where there is more than one

    @classmethod
    def of(cls, source: str, kernel: str, constants: Mapping[str, object], matrix: str, variant: str = "") -> "Key":
        return cls(source, kernel, tuple(sorted(constants.items())), matrix, variant)


def write(path: Path, programs: Iterable[Tuple[Key, Program]], notes: Optional[dict] = None) -> None:
    """Replaces the archive; equal cubins are stored once. notes: anything for the reader, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, entries, stored = path.with_suffix(".new"), [], set()
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_LZMA) as file:
        for key, program in programs:
            name = hashlib.sha256(program.cubin).hexdigest()[:24] + ".cubin"
            if name not in stored:
                file.writestr(name, program.cubin)
                stored.add(name)
            entries.append({**key._asdict(), "cubin": name, "description": program.description})
        file.writestr(INDEX, json.dumps({"notes": notes or {}, "programs": entries}))
    temporary.replace(path)


class Archive:
    """Reads what `write` wrote. Raises FileNotFoundError when it is not there."""

    def __init__(self, path: Path):
        self._file = zipfile.ZipFile(path)
        index = json.loads(self._file.read(INDEX))
        self.notes: dict = index["notes"]
        self._entries: Dict[Key, dict] = {}
        for entry in index["programs"]:
            constants = dict(entry["constants"])
            key = Key.of(entry["source"], entry["kernel"], constants, entry["matrix"], entry["variant"])
            self._entries[key] = entry

    @property
    def keys(self) -> Tuple[Key, ...]:
        return tuple(self._entries)

    def description(self, key: Key) -> dict:
        return self._entries[key]["description"]

    @functools.lru_cache(maxsize=None)  # noqa: B019  an archive lives as long as the process
    def get(self, key: Key) -> Optional[Program]:
        """The program built from exactly this, or None."""
        entry = self._entries.get(key)
        return entry and Program(self._file.read(entry["cubin"]), entry["description"])
