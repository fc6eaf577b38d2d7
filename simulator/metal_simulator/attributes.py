"""Every attribute that Metal has for compute."""

from __future__ import annotations

from .rewrite import POSITIONS

ATTRIBUTES = set(POSITIONS) | {
    "buffer",
    "threadgroup",
    "host_name",
    "kernel",
    "function_constant",
    "max_total_threads_per_threadgroup",
    "texture",
    "sampler",
    "id",
    "visible",
    "stitchable",
    "user",
    "maybe_unused",
    "nodiscard",
    "fallthrough",
    "deprecated",
    "required_threads_per_threadgroup",
    "stage_in",
    "user_annotation",
    "function_groups",
}
