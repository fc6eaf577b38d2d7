"""Dropout from its definition, in Python's integers: which weights a seed keeps."""

from __future__ import annotations

import functools

import torch

WORD = 2**32 - 1
# rounds, counter, key, result: kat_vectors of Random123 (Salmon, Moraes, Dror & Shaw, 2011)
PI = (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)
KNOWN_ANSWERS = [
    (7, (0,) * 4, (0,) * 2, (0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48)),
    (7, (WORD,) * 4, (WORD,) * 2, (0x5207DDC2, 0x45165E59, 0x4D8EE751, 0x8C52F662)),
    (7, *PI, (0x4DFCCABA, 0x190A87F0, 0xC47362BA, 0xB6B5242A)),
    (10, (0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (10, (WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (10, *PI, (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@functools.lru_cache(maxsize=None)
def philox(rounds: int, counter: tuple, key: tuple) -> tuple:
    """Philox 4x32."""
    c, k = list(counter), list(key)
    for _ in range(rounds):
        first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
        c = [second >> 32 ^ c[1] ^ k[0], second & WORD, first >> 32 ^ c[3] ^ k[1], first & WORD]
        k = [k[0] + 0x9E3779B9 & WORD, k[1] + 0xBB67AE85 & WORD]
    return tuple(c)


def threshold(dropout_p: float) -> int:
    """Weights kept of every 65536."""
    return max(1, round((1 - dropout_p) * 65536))


def factor(dropout_p: float) -> float:
    return 65536 / threshold(dropout_p)


def kept(dropout_p: float, seed: int, sequence: int, tokens: int, heads: int, keys: int) -> torch.Tensor:
    """bool [tokens, heads, keys], of one sequence."""

    def number(token: int, head: int, key: int) -> int:
        counter = key // 32 * 4 + key % 8 // 2, token, head, sequence
        word = philox(7, counter, (seed & WORD, seed >> 32 & WORD))[key % 32 // 8]
        return word >> 16 if key % 2 else word & 0xFFFF

    kept = [
        [[number(token, head, key) < threshold(dropout_p) for key in range(keys)] for head in range(heads)]
        for token in range(tokens)
    ]
    return torch.tensor(kept, dtype=torch.bool).view(tokens, heads, keys)
