"""What row_softmax must be: with its two numbers every weight of the definition comes out again."""

from __future__ import annotations

import importlib
import math

import torch
from magnitudes import scores_of

NO_KEY = torch.tensor([-(2.0**127), 1e30])


def assert_weights(kernel, call, row_softmax, query, key, slopes=None, tolerance=2e-6):
    """Of one sequence: row_softmax [heads, rows, 2], query [rows, heads, head_dim], key [keys, heads_kv, head_dim]."""
    unit = (
        importlib.import_module(f"{kernel.__name__}.planning.plan")
        .ScoreParams.of(call.softmax_scale, call.softcap, slopes is not None, False)
        .scale
    )
    window = call.window_left, call.window_right
    scores = scores_of(query.double(), key.double(), window, call.softmax_scale, call.softcap, slopes, call.sinks)
    row_max, log2_sum = row_softmax.double().split(1, dim=2)
    weights = torch.exp2(((scores - unit * row_max) * math.log2(math.e) - log2_sum).clamp(max=0))[..., :-1]
    sees = scores[..., :-1].isfinite().any(dim=2)
    expected = scores.softmax(dim=2)[..., :-1].where(sees.unsqueeze(2), 0)
    torch.testing.assert_close(weights, expected, rtol=0, atol=tolerance)
    assert row_softmax.isfinite().all() and (row_softmax[~sees] == NO_KEY).all()
