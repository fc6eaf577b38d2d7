"""Joining attention over parts of the keys: what ring and context parallelism need."""

from __future__ import annotations

from typing import Sequence, Tuple

import torch

from ..call import DTYPES
from ..checks.tensors import check_tensor


def merge_attention_states(
    outputs: Sequence[torch.Tensor], softmax_lses: Sequence[torch.Tensor]
) -> Tuple[torch.Tensor, torch.Tensor]:
    """Attention over all keys, from the results of the same queries over parts of them.

    Each part is weighted by its share of the sum of exponentials, which its log-sum-exp tells. To merge in several
    steps without rounding in between, pass the outputs as fp32. Every part is computed with a mask of its own, as the
    last query lines up with the last key of the part; a sink belongs into one part only.

    A log-sum-exp in fp32 is rounded by up to |lse| * 6e-8, and the weight of a part is wrong by that fraction: 6 % at
    1e6. Finite inputs give finite results, whatever their size; NaN in a log-sum-exp gives NaN for its query and head
    alone.

    Args:
        outputs: one or more, `[total_q, num_heads, head_dim]` or `[batch, seqlen_q, num_heads, head_dim]`, all of one
            shape, dtype (fp32, fp16 or bf16) and device.
        softmax_lses: as many, fp32, `[num_heads, total_q]` or `[batch, num_heads, seqlen_q]`, as the attention
            functions return them with the outputs; -inf where a query saw no key of the part.

    Returns:
        (output, softmax_lse), shaped as one part's: output in the outputs' dtype, softmax_lse in fp32. Gradients flow
        through both to all inputs. A query that saw no key of any part gives 0, and -inf.

    Raises:
        TypeError, ValueError: an argument of a wrong type; of a wrong value or shape.
    """
    _check(outputs, softmax_lses)
    lses = torch.stack(tuple(softmax_lses))
    largest = lses.detach().amax(dim=0)
    seen = largest != -torch.inf
    weights = (lses - largest.where(seen, 0)).exp()
    total = weights.sum(dim=0).where(seen, 1)
    lse = (total.log() + largest).where(seen, -torch.inf)
    # Heads and tokens as the outputs have them; quarters, as rounded shares may add up to more than 1.
    shares = (weights / (4 * total)).transpose(-1, -2).unsqueeze(-1)
    merged = sum(share * output for share, output in zip(shares, outputs))
    bound = torch.finfo(torch.float32).max / 4
    excess = (merged - merged.clamp(-bound, bound)).detach()  # so that the gradient is none of clamp
    return ((merged - excess) * 4).to(outputs[0].dtype), lse


def _check(outputs: Sequence[torch.Tensor], softmax_lses: Sequence[torch.Tensor]) -> None:
    for parts, name in ((outputs, "outputs"), (softmax_lses, "softmax_lses")):
        if not isinstance(parts, (list, tuple)):
            raise TypeError(f"{name} must be a list or tuple of tensors, got {type(parts).__name__}")
    if not outputs or len(outputs) != len(softmax_lses):
        raise ValueError(
            f"outputs and softmax_lses must be one or more and as many, got {len(outputs)} and {len(softmax_lses)}"
        )
    layout = "[total_q, heads, head_dim] or [batch, seqlen_q, heads, head_dim]"
    for index, (output, lse) in enumerate(zip(outputs, softmax_lses)):
        output_name, lse_name = f"outputs[{index}]", f"softmax_lses[{index}]"
        check_tensor(output, output_name, layout, at_least=3, dtypes=DTYPES)
        check_tensor(lse, lse_name, "[heads, total_q] or [batch, heads, seqlen_q]", at_least=2, dtypes=(torch.float32,))
        first = outputs[0]
        if output.dim() > 4 or output.shape != first.shape:
            raise ValueError(
                f"{output_name} must be {layout} and have the shape of outputs[0], {tuple(first.shape)}, "
                f"got shape {tuple(output.shape)}"
            )
        if output.dtype != first.dtype:
            raise TypeError(f"{output_name} must have the dtype of outputs[0], {first.dtype}, got {output.dtype}")
        shape = (*first.shape[:-3], first.shape[-2], first.shape[-3])
        if lse.shape != shape:
            raise ValueError(f"{lse_name} must have shape {shape}, got shape {tuple(lse.shape)}")
        for tensor, name in ((output, output_name), (lse, lse_name)):
            if tensor.device != first.device:
                raise ValueError(f"{name} must be on the device of outputs[0], {first.device}, got {tensor.device}")
