// A kernel template whose argument is a function template: 4-bit blocks to rows of float.
#include <metal_stdlib>
using namespace metal;

typedef struct {
  half d;
  uint8_t qs[16];
} block_q4_0;

// Half a block: il 0 is the low nibbles, il 1 the high ones.
template <typename type4x4>
void dequantize_q4_0(device const block_q4_0* xb, short il, thread type4x4& reg) {
  const float d = xb->d;
  float4x4 values;
  for (int i = 0; i < 16; i++) values[i / 4][i % 4] = d * ((il ? xb->qs[i] >> 4 : xb->qs[i] & 0xF) - 8);
  reg = (type4x4)values;
}

template <typename block_q, short nl, void (*dequantize_func)(device const block_q*, short, thread float4x4&)>
kernel void get_rows_q(device const void* src0 [[buffer(0)]], device float* dst [[buffer(1)]],
                       constant uint& ne [[buffer(2)]], uint3 tgpig [[threadgroup_position_in_grid]],
                       uint tiitg [[thread_index_in_threadgroup]], uint3 tptg [[threads_per_threadgroup]]) {
  for (uint ind = tiitg; ind < ne / 16; ind += tptg.x) {
    float4x4 temp;
    dequantize_func(((device const block_q*)((const device char*)src0)) + ind / nl, ind % nl, temp);
    *(((device float4x4*)dst) + ind) = temp;
  }
}

typedef decltype(get_rows_q<block_q4_0, 2, dequantize_q4_0>) get_rows_q_t;
template [[host_name("get_rows_q4_0")]] kernel get_rows_q_t get_rows_q<block_q4_0, 2, dequantize_q4_0>;
