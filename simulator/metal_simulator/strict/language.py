"""What is newer than the C++ of a version of Metal; clang reads all of C++17, and more as extensions."""

from __future__ import annotations

import re
from typing import Iterator, List, NamedTuple, Optional, Tuple

from ..errors import CompileError
from ..source.declarations import read_attributes
from ..source.diagnostics import parse_message
from ..source.tokens import Token, matching


class Language(NamedTuple):
    name: str
    version: int  # __METAL_VERSION__
    standard: str
    warnings: Tuple[str, ...]  # of clang, about what is newer
    attributes: Tuple[str, ...]  # that are newer: of them clang says nothing
    names: Tuple[str, ...]  # of Metal's headers that are newer


_AFTER_17 = ("-Wc++20-extensions", "-Wc++20-designator", "-Wc++23-extensions")
_TENSORS = tuple(
    "mpp tensor tensor_inline tensor_handle tensor_offset cooperative_tensor extents dextents dynamic_extent "
    "execution_thread execution_simdgroup execution_simdgroups execution_threadgroup".split()
)
_LANGUAGES = (
    Language(
        "metal3.1",
        310,
        "C++14",
        ("-Wpre-c++17-compat-pedantic", *_AFTER_17),
        ("nodiscard", "maybe_unused", "fallthrough"),
        _TENSORS,
    ),
    Language("metal4.0", 400, "C++17", _AFTER_17, (), ()),
)
NAMES = tuple(language.name for language in _LANGUAGES)
_NEWER = re.compile(
    r"(?:(?: is| are) incompatible with C\+\+ standards before C\+\+\d\d.*| (?:is|are) a C\+\+\d\d extension) \[-W"
)
# Metal's own headers have them, whatever the version; a mangled name is nobody's concern.
_METALS_OWN = ("hexadecimal floating literals", "mangled name of")
_COMMON_WORDS = {  # clang's, which its versions do not share, and everybody's
    "constexpr if": "if constexpr",
    "decomposition declarations": "structured bindings",
    "structured binding declarations": "structured bindings",
}


def language_named(name: Optional[str]) -> Optional[Language]:
    """The language of this name, None of None. Raises CompileError for another name."""
    if name is None:
        return None
    for language in _LANGUAGES:
        if language.name == name:
            return language
    raise CompileError(f"no language {name!r}; known are {', '.join(NAMES)}")


def predefined(language: Optional[str], deployment_target: Optional[str]) -> List[str]:
    """Flags of clang's that tell a source its language and its deployment target; see Library.

    Raises CompileError for another language, and for a target that is no version of macOS."""
    chosen, flags = language_named(language), []
    if chosen:
        flags += ["-U__METAL_VERSION__", f"-D__METAL_VERSION__={chosen.version}"]
        flags += ["-D__HAVE_TENSOR__=1"] if chosen.version >= 400 else []
    if deployment_target is not None:
        found = re.fullmatch(r"(\d{1,2})(?:\.(\d{1,2}))?", deployment_target)
        if not found:
            raise CompileError(f'deployment_target is a version of macOS such as "26.2", not {deployment_target!r}')
        number = int(found.group(1)) * 10000 + int(found.group(2) or 0) * 100
        flags.append(f"-D__ENVIRONMENT_OS_VERSION_MIN_REQUIRED__={number}")
    return flags


def newer(language: Language, stderr: str) -> Iterator[Tuple[str, int, int, str]]:
    """File, line, column and message of each of clang's warnings that something is newer than the language."""
    for line in stderr.splitlines():
        message = parse_message(line)
        found = _NEWER.search(message[4]) if message and message[3] == "warning" else None
        if found and not message[4].startswith(_METALS_OWN):
            yield (*message[:3], _message(message[4][: found.start()], language))


def newer_attributes(language: Language, tokens: List[Token]) -> Iterator[Tuple[Token, str]]:
    for i, token in enumerate(tokens[:-1]):
        if token.text == "[" and tokens[i + 1].text == "[":
            for _, _, attributes in read_attributes(tokens, i, matching(tokens, i) + 1):
                for attribute in attributes:
                    if attribute.name in language.attributes:
                        yield attribute.token, _message(f"[[{attribute.name}]]", language)


def newer_names(language: Language, tokens: List[Token]) -> Iterator[Tuple[Token, str]]:
    """Names of Metal's headers where they are qualified: a kernel may have others of the same spelling."""
    for namespace, before, token, after in zip([None, None, *tokens], [None, *tokens], tokens, [*tokens[1:], None]):
        if token.text not in language.names or not namespace or not after:
            continue
        is_own_namespace = token.text == "mpp" and after.text == "::"
        if is_own_namespace or (before and (namespace.text, before.text) == ("metal", "::")):
            yield token, f"newer than {language.name}: {token.text}"


def _message(what: str, language: Language) -> str:
    for theirs, common in _COMMON_WORDS.items():
        what = what.replace(theirs, common)
    return f"newer than {language.standard}, the C++ of {language.name}: {what}"
