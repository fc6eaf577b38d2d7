"""What fp32 arithmetic can do for attention at any magnitude: a plain evaluation of the definition, and its errors.

Dense, one sequence: query [rows, heads, head_dim], key and value [keys, heads_kv, head_dim].
"""

from __future__ import annotations

import math

import torch

UNIT = 2.0**-24  # relative rounding error of fp32
TINY = 2.0**-149  # smallest positive fp32: absolute rounding error among subnormal numbers
LARGEST_SCORE = 2.0**127  # partial sums of scores stay below, or a row may be NaN


def visible_keys(rows: int, keys: int, window) -> torch.Tensor:
    """bool [rows, keys]"""
    distance = torch.arange(keys) - (torch.arange(rows).unsqueeze(1) + keys - rows)
    visible = torch.ones(rows, keys, dtype=torch.bool)
    if window[0] >= 0:
        visible &= distance >= -window[0]
    if window[1] >= 0:
        visible &= distance <= window[1]
    return visible


def scores_of(query, key, window, scale, softcap=0.0, alibi_slopes=None, sinks=None):
    """Scores [heads, rows, keys + 1] in the dtype of the query, each step rounded, in the order of the definition. The
    last column is the sink. -inf is what a row does not see."""
    rows, num_heads = query.shape[:2]
    keys = key.shape[0]
    key = key.repeat_interleave(num_heads // key.shape[1], dim=1)
    # Not torch.matmul, which may add up equal keys in different orders.
    scores = scale * (query.transpose(0, 1).unsqueeze(2) * key.transpose(0, 1).unsqueeze(1)).sum(dim=3)
    if softcap > 0:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        distance = (torch.arange(keys) - (torch.arange(rows).unsqueeze(1) + keys - rows)).abs()
        scores = scores - alibi_slopes.to(scores.dtype)[:, None, None] * distance
    scores = scores.masked_fill(~visible_keys(rows, keys, window), -math.inf)
    sink = torch.full((num_heads,), -math.inf) if sinks is None else sinks
    return torch.cat([scores, sink.to(scores.dtype)[:, None, None].expand(-1, rows, 1)], dim=2)


def plain(query, key, value, window, scale, softcap=0.0, alibi_slopes=None, sinks=None):
    """(output [rows, heads, value_dim], lse [heads, rows]) in fp32, straight from the definition."""
    query, key, value = query.float(), key.float(), value.float()
    scores = scores_of(query, key, window, scale, softcap, alibi_slopes, sinks)
    row_max = scores.amax(dim=2, keepdim=True)
    weights = torch.exp(scores - row_max)
    row_sum = weights.sum(dim=2, keepdim=True)
    weights = (weights / row_sum)[..., :-1]
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    return torch.matmul(weights, value.transpose(0, 1)).transpose(0, 1), (row_max + row_sum.log()).squeeze(2)


class Exact:
    """The answer in float64, and how far from it a result may be, elementwise.

    An error of a score shows in the output by as much as the weights can change by it. Each score may be wrong by
    `slack` times what a plain fp32 evaluation of the definition makes of it: one rounding for each step, and for its
    sum of head_dim products the usual estimate of the error of such a sum, sqrt(head_dim) roundings of the sum of their
    magnitudes (Higham and Mary, 2019). With adds_in_one_order, scores of equal keys are nearly equal, however they are
    rounded: so those of the kernels, not those of torch's matrix products, which the CPU implementation takes.

    output, output_error: [rows, heads, value_dim]; lse, lse_error: [heads, rows].
    is_seen: bool [rows], rows that see a key. in_domain: bool [rows, heads], where partial sums of scores stay below
    LARGEST_SCORE.
    """

    def __init__(
        self,
        slack,
        query,
        key,
        value,
        window,
        scale,
        softcap=0.0,
        alibi_slopes=None,
        sinks=None,
        adds_in_one_order=True,
    ):
        dtype, head_dim = query.dtype, query.shape[-1]
        query, key, value = query.double(), key.double(), value.double()
        rows, num_heads, keys = *query.shape[:2], key.shape[0]
        value = value.repeat_interleave(num_heads // value.shape[1], dim=1).transpose(0, 1)  # [heads, keys, value_dim]
        visible = visible_keys(rows, keys, window)
        self.is_seen = visible.any(dim=1)
        scores = scores_of(query, key, window, scale, softcap, alibi_slopes, sinks)
        products = scores_of(query.abs(), key.abs(), (-1, -1), 1.0)[..., :-1]  # sums of the magnitudes
        bias = torch.zeros_like(products)
        if alibi_slopes is not None:
            bias = scores_of(query * 0, key, (-1, -1), 1.0, alibi_slopes=alibi_slopes.abs())[..., :-1].abs()
        scaled = abs(scale) * products
        capped = scaled.clamp(max=softcap) if softcap > 0 else scaled
        reach = (products * max(1.0, abs(scale)) + bias).masked_fill(~visible, 0)
        self.in_domain = (reach.amax(dim=2) < LARGEST_SCORE).T
        error = UNIT * (math.sqrt(head_dim) + 2) * scaled
        error += TINY * (products + head_dim * abs(scale))  # of a subnormal scale, of subnormal products
        if softcap > 0:
            error = error.clamp(max=2 * softcap)
        error += UNIT * 3 * (capped + bias)
        sink_error = UNIT * scores[..., -1:].abs().nan_to_num(0, 0, 0)
        error = slack * torch.cat([error, sink_error], dim=2).masked_fill(scores == -math.inf, 0)

        seen = self.is_seen[None, :, None]
        scores = scores.where(seen, 0)
        weights = torch.softmax(scores, dim=2)
        value = torch.cat([value, torch.zeros_like(value[:, :1])], dim=1)
        self.output = torch.matmul(weights, value)
        lse, low, high = (torch.logsumexp(scores + sign * error, dim=2) for sign in (0, -1, 1))
        if adds_in_one_order and alibi_slopes is None and sinks is None and (key == key[:1]).all():
            error = error.clamp(max=1e-4)
        spread = torch.maximum(_most(scores, error) - weights, weights - _most(scores, -error))
        distance = (value[:, None] - self.output[:, :, None]).abs()  # [heads, rows, keys + 1, value_dim]
        output_error = (spread.unsqueeze(3) * distance).sum(dim=2)
        self.output_error = output_error + self._ordinary(value, visible, dtype)
        self.lse = lse
        self.lse_error = torch.maximum(high - lse, lse - low) + 4e-6 * (1 + lse.abs())
        self.output = self.output.where(seen, 0).transpose(0, 1)
        self.output_error = self.output_error.where(seen, 0).transpose(0, 1)
        self.lse = self.lse.where(self.is_seen, -math.inf)

    def _ordinary(self, value, visible, dtype):
        """CONTRIBUTING.md, Numerics, of the values that a row sees. [heads, rows, value_dim]"""
        seen = torch.cat([visible, torch.zeros_like(visible[:, :1])], dim=1)
        sizes = value.abs().amax(dim=2, keepdim=True).transpose(1, 2)  # [heads, 1, keys + 1]
        largest = sizes.masked_fill(~seen, 0).amax(dim=2).unsqueeze(2)
        rounding = (self.output.to(dtype).double() - self.output).abs()
        relative = 5e-6 if dtype == torch.float32 else 4e-6
        return relative * largest + 1.1 * rounding + TINY * seen.sum(dim=1)[:, None]

    def assert_close(self, output, lse) -> None:
        """Within the errors and finite where the answer is; outside of the domain anything goes."""
        checked = self.in_domain
        _assert_within(output, self.output, self.output_error, checked.unsqueeze(2).expand_as(output), "output")
        if lse is not None:
            # An answer that its error takes beyond the largest number may be rounded to infinity.
            may_overflow = self.lse.abs() + self.lse_error > torch.finfo(lse.dtype).max
            _assert_within(lse, self.lse, self.lse_error, checked.T & ~(may_overflow & lse.isinf()), "lse")


def _most(scores, error):
    """The largest that each weight can be: its score raised by its error, the others lowered by theirs. With errors
    negated, the smallest."""
    others = (scores - error).unsqueeze(2).expand(-1, -1, scores.shape[2], -1)  # [..., key, other key]
    others = others.masked_fill(torch.eye(scores.shape[2], dtype=torch.bool), -math.inf)
    return torch.sigmoid(scores + error - torch.logsumexp(others, dim=3)).where(scores > -math.inf, 0)


def _assert_within(result, expected, error, checked, name) -> None:
    """Finite where the exact answer rounds to something finite in the dtype of the result."""
    rounded = expected.to(result.dtype)
    difference = (result.double() - expected).abs()
    right = torch.where(rounded.isfinite(), difference <= error, result == rounded)
    wrong = (~right & checked).nonzero()
    if len(wrong):
        place = tuple(wrong[0].tolist())
        raise AssertionError(
            f"{name}{list(place)} is {result[place].item():.9g}, exactly {expected[place].item():.9g}, "
            f"allowed error {error[place].item():.3g}; {len(wrong)} of {result.numel()} are wrong"
        )
