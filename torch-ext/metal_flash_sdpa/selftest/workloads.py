"""The standard shapes: what the self-test and benchmarks/benchmark.py time."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, cast

import torch
import torch.nn.functional as F

from .. import interface
from . import reference

_RAGGED = tuple(137 + 7919 * number % 8055 for number in range(32))  # 137 .. 8191 tokens, in no order


class Workload(NamedTuple):
    """Attention of a model: (query, key) tokens of each sequence, in float16."""

    lengths: Tuple[Tuple[int, int], ...]
    num_heads: int = 32
    num_heads_kv: int = 8
    head_dim: int = 128
    window_left: int = -1  # all are causal
    softcap: float = 0.0
    sinks: bool = False
    trains: bool = False  # the gradients of query, key and value, too

    def small(self) -> Workload:
        """A sixty-fourth of the tokens, for a CPU."""
        lengths = tuple((-(-queries // 64), -(-keys // 64)) for queries, keys in self.lengths)
        return self._replace(lengths=lengths, window_left=self.window_left // 64)


WORKLOADS = {
    "decode_1x16k": Workload(((1, 16384),)),
    "decode_32x8k": Workload(((1, 8192),) * 32),
    "decode_32_ragged": Workload(tuple((1, keys) for keys in _RAGGED)),
    "speculative_16_ragged": Workload(tuple((4, keys) for keys in _RAGGED[:16])),
    "prefill_2k": Workload(((2048, 2048),)),
    "prefill_ragged": Workload(tuple((keys, keys) for keys in _RAGGED[:6])),
    "prefill_window": Workload(((8192, 8192),), window_left=511),
    "prefill_gpt_oss": Workload(((4096, 4096),), 64, 8, 64, window_left=127, sinks=True),
    "decode_gpt_oss": Workload(((1, 8192),) * 8, 64, 8, 64, sinks=True),
    "prefill_gemma": Workload(((4096, 4096),), 8, 4, 256, softcap=50.0),
    "train_4k": Workload(((4096, 4096),), 32, 32, trains=True),
    "train_window": Workload(((8192, 8192),), window_left=511, trains=True),
    "train_ragged": Workload(tuple((keys, keys) for keys in _RAGGED[:6]), trains=True),
}


class Problem:
    """A workload's tensors on a device, our way to solve it and others."""

    def __init__(self, workload: Workload, device: torch.device, seed: int = 0):
        torch.manual_seed(seed)
        self.workload = workload
        self.lengths = lengths_q, lengths_k = tuple(zip(*workload.lengths))
        shapes = [(sum(lengths_q), workload.num_heads)] + [(sum(lengths_k), workload.num_heads_kv)] * 2
        self.query, self.key, self.value = (
            torch.randn(*shape, workload.head_dim, device=device, dtype=torch.float16) for shape in shapes
        )
        self.grad_output = torch.randn_like(self.query) if workload.trains else None
        self.sinks = torch.randn(workload.num_heads, device=device) if workload.sinks else None
        self.bounds = [torch.tensor((0, *lengths)).cumsum(0).to(device, torch.int32) for lengths in self.lengths]

    def ours(self) -> torch.Tensor:
        """`[total_q, num_heads, head_dim]`, by the public function that callers take for such lengths."""
        workload, (lengths_q, lengths_k) = self.workload, self.lengths
        settings: Dict = {"causal": True, "window_size": (workload.window_left, 0), "softcap": workload.softcap}
        if len(set(workload.lengths)) == 1:
            query, key, value = (
                tensor.unflatten(0, (len(lengths_q), -1)) for tensor in (self.query, self.key, self.value)
            )
            output = interface.flash_attn_func(query, key, value, s_aux=self.sinks, **settings)
            return cast(torch.Tensor, output).flatten(0, 1)
        output = interface.flash_attn_varlen_func(
            *(self.query, self.key, self.value, *self.bounds, max(lengths_q), max(lengths_k)),
            s_aux=self.sinks,
            **settings,
        )
        return cast(torch.Tensor, output)

    def sdpa(self) -> Optional[Callable[[], torch.Tensor]]:
        """The same by F.scaled_dot_product_attention, in a call for each length; None if it has no such feature."""
        workload = self.workload
        if workload.softcap or workload.sinks:
            return None
        calls = []
        for lengths in dict.fromkeys(workload.lengths):
            members = [number for number, other in enumerate(workload.lengths) if other == lengths]
            calls.append((members, self._mask(*lengths)))
        stacked = [self._stacked(members) for members, _ in calls]

        def attention() -> torch.Tensor:
            outputs: Dict[int, torch.Tensor] = {}
            for (members, mask), tensors in zip(calls, stacked):
                query, key, value = self._stacked(members) if workload.trains else tensors
                features: Dict[str, Any] = {"is_causal": mask is None and query.shape[2] > 1, "enable_gqa": True}
                found = F.scaled_dot_product_attention(query, key, value, mask, **features)
                outputs.update(zip(members, found.transpose(1, 2)))
            return torch.cat([outputs[number] for number in sorted(outputs)])

        return attention

    def eager(self) -> torch.Tensor:
        """The same by PyTorch's own operators, with all scores of a key/value head in memory."""
        workload = self.workload
        group = workload.num_heads // workload.num_heads_kv
        outputs = []
        for query, key, value in zip(*self._parts()):
            visible, heads = self._visible(len(query), len(key)), []
            for head in range(workload.num_heads):
                head_kv = head // group
                scores = (query[:, head] @ key[:, head_kv].T).float() * workload.head_dim**-0.5
                if workload.softcap:
                    scores = workload.softcap * torch.tanh(scores / workload.softcap)
                scores = scores.masked_fill(~visible, float("-inf"))
                if self.sinks is not None:
                    scores = torch.cat([scores, self.sinks[head].expand(len(query), 1)], dim=1)
                weights = torch.softmax(scores, dim=1)[:, : len(key)].to(value.dtype)
                heads.append(weights @ value[:, head_kv])
            outputs.append(torch.stack(heads, dim=1))
        return torch.cat(outputs)

    def solve(self, attend: Callable[[], torch.Tensor]) -> Tuple[torch.Tensor, ...]:
        """What `attend`, one of the ways, gives: the output, and where the workload trains, the gradients."""
        if self.grad_output is None:
            return (attend(),)
        leaves = [tensor.requires_grad_() for tensor in (self.query, self.key, self.value)]
        output = attend()
        return output.detach(), *torch.autograd.grad(output, leaves, self.grad_output)

    def error(self, output: torch.Tensor, *grads: torch.Tensor, rows: int = 4) -> float:
        """Of what `solve` gives, as a part of what is allowed: of the last rows of each sequence, which see the most,
        and of the last keys and values, which only these rows see."""
        workload = self.workload
        window, scale = (workload.window_left, 0), workload.head_dim**-0.5
        sinks = None if self.sinks is None else self.sinks.cpu()
        errors = []
        for place, (query, key, value) in enumerate(zip(*self._parts())):
            halves = (tensor.detach().cpu().double().tensor_split([-rows]) for tensor in (query, key, value))
            rest, leaves = zip(*((first, last.requires_grad_()) for first, last in halves))
            keys, values = (torch.cat(parts) for parts in zip(rest[1:], leaves[1:]))
            expected, _ = reference.attention(
                leaves[0], keys, values, scale, window, self.workload.softcap, None, sinks
            )
            found = [self._last_rows(tensor, place, name, rows) for tensor, name in zip((output, *grads), "qqkv")]
            errors.append(reference.output_error(found[0], expected.detach(), value.detach().cpu()))
            if self.grad_output is not None:
                grad_output = self._last_rows(self.grad_output, place, "q", rows).double()
                for grad, right in zip(found[1:], torch.autograd.grad(expected, leaves, grad_output)):
                    errors.append(reference.gradient_error(grad, right))
        return reference.largest(errors)

    def _last_rows(self, tensor: torch.Tensor, sequence: int, kind: str, rows: int) -> torch.Tensor:
        return tensor.split(self.lengths[kind != "q"])[sequence][-rows:].cpu()

    def _parts(self):
        """Queries, keys and values, each a tensor for every sequence."""
        lengths_q, lengths_k = self.lengths
        return self.query.split(lengths_q), self.key.split(lengths_k), self.value.split(lengths_k)

    def _stacked(self, members: List[int]) -> List[torch.Tensor]:
        """Queries, keys and values of these sequences, which have the same lengths, as SDPA takes them."""
        return [torch.stack([parts[number] for number in members]).transpose(1, 2) for parts in self._parts()]

    def _mask(self, queries: int, keys: int) -> Optional[torch.Tensor]:
        """What a query sees; None when a flag of SDPA says the same."""
        if self.workload.window_left < 0 and (queries == keys or queries == 1):
            return None
        return self._visible(queries, keys)

    def _visible(self, queries: int, keys: int) -> torch.Tensor:
        """What a query sees, bool [queries, keys]."""
        distance = torch.arange(keys) - (torch.arange(queries)[:, None] + keys - queries)
        visible = distance <= 0
        if self.workload.window_left >= 0:
            visible &= distance >= -self.workload.window_left
        return visible.to(self.query.device)
