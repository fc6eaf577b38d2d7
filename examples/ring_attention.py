"""Ring attention: each process has a part of every sequence, and keys and values go round.

    python examples/ring_attention.py --processes 4

Causal, forward and backward, beside one process that has everything. `merge_attention_states` joins what the queries
see of each part; the backward of a part takes the output and the log-sum-exp over all of them. Needs torch and kernels.
"""

from __future__ import annotations

import argparse
import os
import tempfile

import torch
import torch.distributed as dist
from kernels import get_kernel

SETTINGS = (-1, -1, 0.0, None)  # window_size_left, window_size_right, softcap, alibi_slopes


def sent_on(tensor: torch.Tensor) -> torch.Tensor:
    """What the process before had; this one's goes to the next."""
    rank, size = dist.get_rank(), dist.get_world_size()
    mine = tensor.cpu().contiguous()
    received = torch.empty_like(mine)
    operations = [
        dist.P2POp(dist.isend, mine, (rank + 1) % size),
        dist.P2POp(dist.irecv, received, (rank - 1) % size),
    ]
    for request in dist.batch_isend_irecv(operations):
        request.wait()
    return received.to(tensor.device)


class RingAttention(torch.autograd.Function):
    """Causal attention of q, k, v `[batch, tokens, heads, head_dim]`, this process's part of the tokens."""

    @staticmethod
    def forward(ctx, attention, q, k, v):
        rank, size = dist.get_rank(), dist.get_world_size()
        key_value, outputs, lses = torch.stack((k, v)), [], []
        for step in range(size):
            if step <= rank:  # the part of process rank - step; later ones are hidden
                output, lse, _, _ = attention.flash_attn_interface._flash_attn_forward(
                    q, *key_value, 0.0, None, step == 0, *SETTINGS, False
                )
                outputs.append(output.float())
                lses.append(lse)
            if step + 1 < size:
                key_value = sent_on(key_value)
        output, lse = attention.merge_attention_states(outputs, lses)
        output = output.to(q.dtype)
        ctx.attention = attention
        ctx.save_for_backward(q, k, v, output, lse)
        return output

    @staticmethod
    def backward(ctx, grad_output):
        q, k, v, output, lse = ctx.saved_tensors
        key_value = torch.stack((k, v))
        grad_query, grad_key_value = torch.zeros_like(q), torch.zeros_like(key_value)
        for step in range(dist.get_world_size()):
            if step <= dist.get_rank():
                part = torch.empty_like(q), *torch.empty_like(key_value)
                ctx.attention.flash_attn_interface._flash_attn_backward(
                    grad_output, q, *key_value, output, lse, *part, 0.0, None, step == 0, *SETTINGS, False
                )
                grad_query += part[0]
                grad_key_value += torch.stack(part[1:])
            key_value, grad_key_value = sent_on(key_value), sent_on(grad_key_value)  # after a round, they are home
        return None, grad_query, *grad_key_value


def process(rank: int, size: int, store: str, device: str) -> None:
    """One of the ring; every process makes the same tensors, and compares its part with the whole."""
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size)
    torch.set_num_threads(1)
    attention = get_kernel("org/metal-flash-sdpa", version=1, trust_remote_code=True)
    generator = torch.Generator().manual_seed(0)
    q, grad = (torch.randn(2, 12 * size, 4, 32, generator=generator).to(device) for _ in "qg")
    k, v = (torch.randn(2, 12 * size, 2, 32, generator=generator).to(device) for _ in "kv")
    whole = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
    expected = attention.flash_attn_func(*whole, causal=True)
    expected.backward(grad)
    part = [tensor.detach().chunk(size, dim=1)[rank].clone().requires_grad_() for tensor in (q, k, v)]
    output = RingAttention.apply(attention, *part)
    output.backward(grad.chunk(size, dim=1)[rank])
    found = [output.detach(), *(tensor.grad for tensor in part)]
    wanted = [tensor.chunk(size, dim=1)[rank] for tensor in (expected.detach(), *(t.grad for t in whole))]
    for name, ours, theirs in zip(("output", "grad_query", "grad_key", "grad_value"), found, wanted):
        print(f"process {rank} {name} {float((ours - theirs).abs().max()):.1e}", flush=True)
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description="Ring attention over gloo, beside one process.")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    device = "mps" if torch.backends.mps.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        arguments = options.processes, os.path.join(folder, "store"), device
        how = "spawn" if device == "mps" else "fork"  # a GPU's queue does not survive a fork; without one, it is faster
        torch.multiprocessing.start_processes(process, arguments, nprocs=options.processes, start_method=how)


if __name__ == "__main__":
    main()
