"""A launch that is divided into ranges of tiles gives the same bits. Levels: plan; simulation."""

from __future__ import annotations

import pytest
import torch
from cases import call_of, dense, packed, random_tensor
from simulated_launcher import SimulatedLauncher


def first_tile(launch) -> int:
    """The 30th number of ForwardParams."""
    return launch.arguments[0].values()[29]


def dense_call(kernel):
    return kernel.flash_attn_func(*dense(2, 130, 70, 4, 2, 64, torch.float16), causal=True, return_attn_probs=True)


def packed_call(kernel):
    query, key, value, *bounds = packed([(33, 40), (0, 5), (90, 12), (1, 130)], 4, 2, 64, torch.float32)
    features = {"softcap": 30.0, "s_aux": random_tensor(5, 4), "alibi_slopes": random_tensor(6, 4).abs()}
    bounds[0] = bounds[0] - 5  # the last five queries are of no sequence
    return kernel.flash_attn_varlen_func(
        query, key, value, *bounds, 90, 130, window_size=(50, 3), return_attn_probs=True, **features
    )


def split_call(kernel):
    query, key, value = dense(3, 20, 200, 4, 2, 32, torch.float32)
    return kernel.flash_attn_with_kvcache(query, key, value, num_splits=3, causal=True, return_softmax_lse=True)


@pytest.mark.parametrize("device", [(7, 1), (7, 8), (9, 10)], ids=["large", "small", "direct"])
@pytest.mark.parametrize("call", [dense_call, packed_call, split_call])
def test_ranges_give_the_same_bits(kernel, call, device):
    results, launches = [], []
    for work in (kernel.device.LAUNCH_WORK, 1):  # one launch; one tile, or as many as there are cores
        launcher = SimulatedLauncher(check=True)
        with kernel.launchers.use_launcher(launcher, kernel.device.Device(*device, launch_work=work)):
            results.append(call(kernel)[:2])
        launches.append(launcher.launches)
    for whole, divided in zip(*results):
        assert torch.equal(whole.view(torch.uint8), divided.view(torch.uint8))
    assert launches[1] > launches[0] <= 2  # the second joins the parts of divided keys


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("work", [1, 10**7, 3 * 10**7, 10**8, 10**12])
@pytest.mark.parametrize("num_splits", [1, 5])
def test_every_tile_is_in_one_launch(kernel, is_packed, work, num_splits):
    shape = (1, 1000, 8, 64)
    query, key = (torch.empty(shape[is_packed:], dtype=torch.float16, device="meta") for _ in "qk")
    cu_seqlens = torch.empty(4, dtype=torch.int32, device="meta") if is_packed else None
    call = call_of(kernel, query, key, key, cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens, num_splits=num_splits)
    one, several = (
        kernel.planner.plan_forward(kernel.device.SMALLEST._replace(launch_work=limit), query, None, call)
        for limit in (kernel.device.LAUNCH_WORK, work)
    )
    assert one.scratch == several.scratch
    [whole, *joining], divided = one.launches, list(several.launches)
    ranges = divided[: len(divided) - len(joining)]
    heads, tiles, splits = whole.grid
    found = [tile for launch in ranges for tile in range(first_tile(launch), first_tile(launch) + launch.grid[1])]
    assert sorted(found) == list(range(tiles)) and found[-1] < found[0] or len(ranges) == 1
    assert divided[len(ranges) :] == joining
    unchanged = {"arguments": whole.arguments, "grid": whole.grid, "waits": False}
    assert [launch.waits for launch in ranges] == [True] * (len(ranges) - 1) + [False]
    for launch in ranges:
        assert launch._replace(**unchanged) == whole and launch.arguments[1:] == whole.arguments[1:]
        assert launch.grid[0] == heads and launch.grid[2] == splits
    rounds = [-(-heads * launch.grid[1] * splits // kernel.device.SMALLEST.cores) for launch in ranges]
    of_a_round = whole.threads[0] // 32 * 8 * -(-1000 // splits) * (64 + 64)
    assert all(count * of_a_round <= work or launch.grid[1] == 1 or count == 1 for count, launch in zip(rounds, ranges))


def test_a_second_at_most(kernel):
    """128 Ki tokens of 32 heads would keep an M1 for minutes; ordinary lengths are one launch."""

    def launches(tokens, **device):
        query, key = (torch.empty(1, tokens, heads, 128, dtype=torch.float16, device="meta") for heads in (32, 8))
        call = call_of(kernel, query, key, key, window_right=0)
        gpu = kernel.device.Device(**{"family": 7, "cores": 8, **device})
        chain = kernel.planner.plan_forward(gpu, query, None, call)
        assert len(repr(chain)) < 20_000  # the plans are not kept
        return sum(1 for _ in chain.launches)

    pairs = 32 * 2**34
    assert launches(2**12) == 1
    assert 1 <= launches(2**17) / (pairs * 256 / (8 * kernel.device.LAUNCH_WORK)) < 1.1
    assert launches(2**17) > 4 * launches(2**17, cores=40) > 1
