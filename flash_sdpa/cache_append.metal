// Writes new keys and values into a cache, and rotates the keys, and the queries that go with them, by their positions
// (rotary embedding), all in the launch before that of the attention. A rotation is computed in fp32 and rounded once to
// the dtype. A token that finds no place (beyond the cache, at a negative position, in a page or row that does not
// exist) is not written, whatever the indices say.
#include <metal_stdlib>
#include "params.h"
#include "tile.h"
using namespace metal;

// As torch's own operations round: each product, then the sum. So the products are statements of their own, too.
#pragma METAL fp contract(off)

constant constexpr int kRows = 4;  // of a threadgroup, a SIMD group each; planning/append.py: ROWS

// planning/plan.py has the same. What there is none of has a 0 here, and another tensor in its buffer.
struct AppendParams {
  Strides key, value, query;       // elements, of the new tokens
  Strides key_cache, value_cache;  // batch: of a row of the cache or of a page
  Strides rotated;
  long new_tokens, query_tokens;  // of each sequence
  long num_heads_kv;
  long num_heads;  // of the queries, 0 without rotation
  long head_dim, value_dim;
  long capacity;                    // tokens of a sequence
  long places;                      // rows or pages that exist
  long page_size;                   // tokens of a place
  long place_stride;                // place numbers of a sequence, 0 without: sequence b then is row b
  long place_words;                 // 32-bit words of an integer: 2 of an int64
  long length_words;                // the same
  long pairs;                       // rotated elements of a head / 2, 0 without rotation
  long pair_step;                   // from the first element of a pair to that of the next
  long pair_distance;               // from the first element of a pair to the second
  long angles;                      // positions that there are angles for
  long cosine_stride, sine_stride;  // elements from one position to the next
  long query_step;                  // 1: query t stands at the position of the new token t; 0: at that of the first
};
static_assert(sizeof(AppendParams) == 37 * 8, "plan.AppendParams packs 37 int64");

// values[index], of integers of so many words.
inline long integer(device const int* values, long index, long words) {
  if (words == 1) return values[index];
  return long(ulong(uint(values[2 * index])) | ulong(uint(values[2 * index + 1])) << 32);
}

// What a lane writes of a head, with its first pairs of elements rotated; cosines and sines are those of its position.
template <typename T, typename Angle>
inline void write_head(device T* target, device const T* source, int columns, int pairs, device const Angle* cosines,
                       device const Angle* sines, constant AppendParams& params, int lane) {
  for (int pair = lane; pair < pairs; pair += kSimdWidth) {
    const int first = pair * int(params.pair_step), second = first + int(params.pair_distance);
    const float x = float(source[first]), y = float(source[second]);
    const float cosine = float(cosines[pair]), sine = float(sines[pair]);
    const float x_cosine = x * cosine, x_sine = x * sine, y_cosine = y * cosine, y_sine = y * sine;
    target[first] = T(x_cosine - y_sine);
    target[second] = T(x_sine + y_cosine);
  }
  for (int column = 2 * pairs + lane; column < columns; column += kSimdWidth) target[column] = source[column];
}

// Grid: (rows / kRows, tokens, batch), where the rows of a token are the heads of its key, of its value and, if they
// are rotated, of its query.
template <typename T, typename Angle>
[[kernel, max_total_threads_per_threadgroup(128)]] void cache_append(
    constant AppendParams& params [[buffer(0)]],
    device const int* cache_seqlens [[buffer(1)]],  // [batch], int32 or int64: tokens before the call
    device const int* places [[buffer(2)]],         // [batch, max_pages], int32; or rows, [batch], int32 or int64
    device const T* key [[buffer(3)]],              // [batch, new_tokens, num_heads_kv, head_dim]
    device const T* value [[buffer(4)]],            // [batch, new_tokens, num_heads_kv, value_dim]
    device T* key_cache [[buffer(5)]],              // [rows or pages, page_size, num_heads_kv, head_dim]
    device T* value_cache [[buffer(6)]],            // [rows or pages, page_size, num_heads_kv, value_dim]
    device int* seqused_k [[buffer(7)]],            // [batch]: tokens after the call
    device const Angle* cosines [[buffer(8)]],      // [angles, pairs]
    device const Angle* sines [[buffer(9)]],        // the same
    device const T* query [[buffer(10)]],           // [batch, query_tokens, num_heads, head_dim]
    device T* rotated [[buffer(11)]],               // the same: the query, rotated
    uint3 position [[threadgroup_position_in_grid]], uint3 grid [[threadgroups_per_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  const int num_heads_kv = params.num_heads_kv, head_dim = params.head_dim, pairs = params.pairs;
  const int row = position.x * kRows + simdgroup, token = position.y;
  const bool is_query = row >= 2 * num_heads_kv, is_value = !is_query && row >= num_heads_kv;
  const int head = is_query ? row - 2 * num_heads_kv : is_value ? row - num_heads_kv : row;
  const long sequence = position.z;
  const long given = integer(cache_seqlens, sequence, params.length_words);
  if (row == 0 && token == 0 && lane == 0) seqused_k[sequence] = int(uint(given) + uint(params.new_tokens));

  // A length beyond these bounds does what they do, and the sums fit.
  const long length = clamp(given, -long(grid.y), max(params.capacity, params.angles));
  const long at = length + (is_query ? token * params.query_step : token);
  const long angle = clamp(at, long(0), max(params.angles - 1, long(0)));
  cosines += angle * params.cosine_stride;
  sines += angle * params.sine_stride;
  if (is_query) {
    if (head >= params.num_heads || token >= params.query_tokens) return;
    query += sequence * params.query.batch + token * params.query.token + head * params.query.head;
    rotated += sequence * params.rotated.batch + token * params.rotated.token + head * params.rotated.head;
    write_head(rotated, query, head_dim, pairs, cosines, sines, params, lane);
    return;
  }

  if (token >= params.new_tokens || at < 0 || at >= params.capacity) return;
  long place = sequence;
  if (params.place_stride > 0)
    place = integer(places, sequence * params.place_stride + at / params.page_size, params.place_words);
  if (place < 0 || place >= params.places) return;
  const long slot = at % params.page_size;
  if (is_value) {
    value += sequence * params.value.batch + token * params.value.token + head * params.value.head;
    value_cache += place * params.value_cache.batch + slot * params.value_cache.token + head * params.value_cache.head;
    write_head(value_cache, value, params.value_dim, 0, cosines, sines, params, lane);
  } else {
    key += sequence * params.key.batch + token * params.key.token + head * params.key.head;
    key_cache += place * params.key_cache.batch + slot * params.key_cache.token + head * params.key_cache.head;
    write_head(key_cache, key, head_dim, pairs, cosines, sines, params, lane);
  }
}

#define INSTANTIATE(name, T, Angle)                                                             \
  template [[host_name("cache_append_" #name)]] [[kernel]] decltype(cache_append<T, Angle>) \
      cache_append<T, Angle>;
INSTANTIATE(f16, half, half)
INSTANTIATE(f16_f32, half, float)
INSTANTIATE(bf16, bfloat, bfloat)
INSTANTIATE(bf16_f32, bfloat, float)
INSTANTIATE(f32, float, float)
