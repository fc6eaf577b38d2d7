"""Which sentence is nearest to which, and whether two sets of embeddings agree on it."""

from __future__ import annotations

from dataclasses import dataclass

import torch

TIE = 1e-6  # cosine similarities closer than this are equal within the rounding of fp32 embeddings


@dataclass
class Agreement:
    nearest: torch.Tensor  # [sentences], by the first embeddings
    similarity: torch.Tensor  # [sentences], cosine
    identical: int
    ties: int  # another neighbour, whose similarity is the same within TIE
    different: int


def compare(first: torch.Tensor, second: torch.Tensor) -> Agreement:
    """Compares the nearest neighbours under two embeddings [sentences, size] of the same sentences."""
    similarities = cosine_similarities(first)
    similarity, nearest = similarities.max(1)
    other = cosine_similarities(second).argmax(1)
    loss = similarity - similarities.gather(1, other.unsqueeze(1)).squeeze(1)
    same = nearest == other
    ties = ~same & (loss <= TIE)
    identical, tied = int(same.sum()), int(ties.sum())
    return Agreement(nearest, similarity, identical, tied, len(first) - identical - tied)


def cosine_similarities(embeddings: torch.Tensor) -> torch.Tensor:
    """[sentences, sentences] in float64; a sentence is not its own neighbour."""
    embeddings = embeddings.double()
    return (embeddings @ embeddings.T).fill_diagonal_(-1)
