#include <metal_stdlib>
using namespace metal;

// Every position attribute, written out by each thread.
[[kernel]] void positions(
    device uint* out [[buffer(0)]], uint3 in_grid [[thread_position_in_grid]],
    uint3 in_group [[thread_position_in_threadgroup]], uint3 group [[threadgroup_position_in_grid]],
    uint3 groups [[threadgroups_per_grid]], uint3 size [[threads_per_threadgroup]], uint3 total [[threads_per_grid]],
    uint index [[thread_index_in_threadgroup]], ushort lane [[thread_index_in_simdgroup]],
    ushort simdgroup [[simdgroup_index_in_threadgroup]], ushort simdgroups [[simdgroups_per_threadgroup]],
    ushort width [[threads_per_simdgroup]], ushort quad [[quadgroup_index_in_threadgroup]],
    ushort quad_lane [[thread_index_in_quadgroup]]) {
  uint flat = (in_grid.z * total.y + in_grid.y) * total.x + in_grid.x;
  device uint* row = out + flat * 25;
  row[0] = in_grid.x, row[1] = in_grid.y, row[2] = in_grid.z;
  row[3] = in_group.x, row[4] = in_group.y, row[5] = in_group.z;
  row[6] = group.x, row[7] = group.y, row[8] = group.z;
  row[9] = groups.x, row[10] = groups.y, row[11] = groups.z;
  row[12] = size.x, row[13] = size.y, row[14] = size.z;
  row[15] = total.x, row[16] = total.y, row[17] = total.z;
  row[18] = index, row[19] = lane, row[20] = simdgroup, row[21] = simdgroups, row[22] = width;
  row[23] = quad, row[24] = quad_lane;
}

kernel void one_dimensional(device ushort* out, uint i [[thread_position_in_grid]],
                            ushort group [[threadgroup_position_in_grid]]) {
  out[i] = group;
}
