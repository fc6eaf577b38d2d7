"""Which weights are dropped: by the seed and by where a weight is, alone, as in the kernels (dropout.h)."""

from __future__ import annotations

from typing import Tuple

import torch

from ..planning.plan import DropoutParams
from .weights import integers

ROUNDS = 7
PIECE_COUNTERS = 2**14  # worked on at once: they stay in the caches
_WORD = 2**32 - 1
_KEYS = 32  # of a row, whose numbers four counters hold


def philox(counter: Tuple[torch.Tensor, ...], key: Tuple[int, int], rounds: int = ROUNDS) -> Tuple[torch.Tensor, ...]:
    """Philox 4x32 (Salmon, Moraes, Dror & Shaw, 2011).

    counter: four words of 32 bits, int64 tensors that broadcast. Of the four returned the lower 32 bits count.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        low, other_low = (c0 & _WORD).mul_(0xD2511F53), (c2 & _WORD).mul_(0xCD9E8D57)  # modulo 2**64
        c0, c1, c2, c3 = (other_low >> 32) ^ (c1 ^ k0), other_low, (low >> 32) ^ (c3 ^ k1), low
        k0, k1 = (k0 + 0x9E3779B9) & _WORD, (k1 + 0xBB67AE85) & _WORD
    return c0, c1, c2, c3


def factors(params: DropoutParams, sequences: slice, num_heads: int, rows: slice, keys: slice) -> torch.Tensor:
    """Of the weights of these rows and keys: 0 where dropped, else 1 / (share kept).

    fp32 [sequences, num_heads, rows, keys].
    """
    first, last = keys.start // _KEYS, -(-keys.stop // _KEYS)
    counts = sequences.stop - sequences.start, num_heads, rows.stop - rows.start, keys.stop - keys.start
    sequence, head, token = torch.meshgrid(
        integers(sequences), integers(slice(0, num_heads)), integers(rows), indexing="ij"
    )
    sequence, head, token = sequence.reshape(-1, 1), head.reshape(-1, 1), token.reshape(-1, 1)
    blocks = integers(slice(4 * first, 4 * last))
    found = torch.empty(counts, dtype=torch.float32, device="cpu")
    by_row = found.view(-1, counts[-1])
    step = max(1, PIECE_COUNTERS // max(1, len(blocks)))
    for begin in range(0, len(by_row), step):
        rows_of_piece = slice(begin, begin + step)
        words = philox(
            (blocks, token[rows_of_piece], head[rows_of_piece], sequence[rows_of_piece]),
            (params.seed & _WORD, params.seed >> 32 & _WORD),
        )
        # A word holds the numbers of two adjacent keys. As int16 they are less than the threshold if so is what they
        # and it become by taking 2**15 off.
        numbers = torch.stack([word.view(-1, last - first, 4).to(torch.int32) for word in words], dim=2)
        numbers = numbers.bitwise_xor_(-0x7FFF8000).view(torch.int16).view(-1, _KEYS * (last - first))
        kept = numbers[:, keys.start - _KEYS * first :][:, : counts[-1]] <= params.threshold - 1 - 2**15
        by_row[rows_of_piece].copy_(kept).mul_(params.factor())  # bool times float would be of the default dtype
    return found
