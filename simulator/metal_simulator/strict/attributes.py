"""Every attribute that Metal has for compute, and those of functions for rendering in the same file."""

from __future__ import annotations

from ..translate.positions import POSITIONS

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
RENDERING = set(
    "amplification_count amplification_id attribute barycentric_coord base_instance base_vertex "
    "center_no_perspective center_perspective centroid_no_perspective centroid_perspective clip_distance "
    "color depth early_fragment_tests flat fragment front_facing instance_id invariant patch patch_id point_coord "
    "point_size position position_in_patch primitive_id raster_order_group render_target_array_index "
    "sample_id sample_mask sample_no_perspective sample_perspective shared stencil thread_index vertex "
    "vertex_id viewport_array_index".split()
)
