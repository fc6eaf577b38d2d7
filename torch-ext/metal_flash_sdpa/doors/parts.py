"""Forward and backward as two calls of a caller's own, who keeps what is between them, as flash-attn 2's private
functions and torch's own operators have it.

A caller may have joined the results of several parts of the keys in between (ring attention), and gives the output and
the log-sum-exp over all keys to the backward of each part. The weights of a part are then its own times the share
exp(lse of the part - lse), and its gradients those of

    loss(share * output of the part, lse of the part)     d loss / d lse = share * <grad_output, part - output>

so that the operators' own backward computes them, with every feature.
"""

from __future__ import annotations

from typing import Optional, Tuple

import torch

from .. import launching as launchers
from .. import operators
from ..call import Call, Dropout, Gradients
from ..checks import features


def forward(call: Call, dropout_p: float) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The output, its log-sum-exp, and rng_state: int64 `[2]` on the CPU, the seed of the dropout and 0."""
    dropout = Dropout(features.check_dropout(dropout_p))
    rng_state = torch.zeros(2, dtype=torch.int64, device="cpu")
    if dropout.dropout_p > 0:
        seed = torch.randint(2**63 - 1, (1,), device="cpu")
        dropout, rng_state = dropout._replace(dropout_seed=seed), torch.cat((seed, rng_state[1:]))
    output, lse, _ = operators.attention_forward(*call, True, False, *dropout)
    return output, lse, rng_state


def backward(
    grad_output: torch.Tensor,
    call: Call,
    output: torch.Tensor,
    lse: torch.Tensor,
    dropout_p: float,
    rng_state: Optional[torch.Tensor],
) -> Gradients:
    """Of query, key and value, from the output and log-sum-exp over these keys, or over more of them.

    The share of a part is at most 1, and wrong by up to |lse| x 1.2e-7, the rounding of the two fp32 log-sum-exps;
    where they are the same bits, it is exactly 1. Raises ValueError without the rng_state that dropout needs.
    """
    dropout = Dropout(features.check_dropout(dropout_p))
    if dropout.dropout_p > 0:
        if rng_state is None:
            raise ValueError("rng_state must be what the forward returned, as dropout_p is above 0, got None")
        dropout = dropout._replace(dropout_seed=rng_state[:1].to("cpu", torch.int64))
    with torch.no_grad():
        is_launched = launchers.takes(call.query)
        part, part_lse, row_softmax = operators.attention_forward(*call, True, is_launched, *dropout)
        share = (part_lse - lse).clamp(max=0).exp().where(part_lse != -torch.inf, 0)
        shared = grad_output.float() * share.transpose(-1, -2).unsqueeze(-1)
        grad_lse = (shared * (part.float() - output.float())).sum(dim=-1).transpose(-1, -2)
        kept = (part, row_softmax) if is_launched else (None, None)
        return Gradients(
            *operators.attention_backward(
                shared.to(grad_output.dtype), grad_lse.contiguous(), *call, *kept, True, False, *dropout
            )
        )
