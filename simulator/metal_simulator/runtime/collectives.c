// What the last lane to arrive at a collective computes for all lanes of its SIMD group.
#include "runtime.h"

#include <math.h>
#include <string.h>

// Kept equal to include/metal_simulator/simdgroup.h. An operation is kind | type << 8; matrix product is 0.
enum { PRODUCT_8X8, SIMD_BARRIER, SUM, PRODUCT, MINIMUM, MAXIMUM, AND, OR, XOR, PREFIX_INCLUSIVE_SUM, PREFIX_EXCLUSIVE_SUM,
       PREFIX_INCLUSIVE_PRODUCT, PREFIX_EXCLUSIVE_PRODUCT, SHUFFLE, SHUFFLE_XOR, SHUFFLE_UP, SHUFFLE_DOWN, ROTATE_UP,
       ROTATE_DOWN, FILL_UP, FILL_DOWN, BROADCAST, BROADCAST_FIRST, BALLOT, QUAD_BALLOT, QUAD_SUM, QUAD_PRODUCT, QUAD_MINIMUM,
       QUAD_MAXIMUM, QUAD_AND, QUAD_OR, QUAD_XOR, QUAD_SHUFFLE, QUAD_SHUFFLE_XOR, QUAD_SHUFFLE_UP, QUAD_SHUFFLE_DOWN, KINDS };
enum { FLOAT, SIGNED, UNSIGNED };

static const char* const names[KINDS] = {
    "simdgroup_multiply_accumulate", "simdgroup_barrier", "simd_sum", "simd_product", "simd_min", "simd_max", "simd_and",
    "simd_or", "simd_xor", "simd_prefix_inclusive_sum", "simd_prefix_exclusive_sum", "simd_prefix_inclusive_product",
    "simd_prefix_exclusive_product", "simd_shuffle", "simd_shuffle_xor", "simd_shuffle_up", "simd_shuffle_down",
    "simd_shuffle_rotate_up", "simd_shuffle_rotate_down", "simd_shuffle_and_fill_up", "simd_shuffle_and_fill_down",
    "simd_broadcast", "simd_broadcast_first", "simd_ballot", "quad_ballot", "quad_sum", "quad_product", "quad_min", "quad_max",
    "quad_and", "quad_or", "quad_xor", "quad_shuffle", "quad_shuffle_xor", "quad_shuffle_up", "quad_shuffle_down"};

const char* metal_operation_name(uint32_t operation) { return names[operation & 0xFF]; }

typedef float Row __attribute__((vector_size(32)));

static void multiply_accumulate(Simdgroup* s) {
  const Row* b = (const Row*)s->b;
  for (int i = 0; i < 8; i++) {
    Row sum = ((const Row*)s->c)[i];
    for (int k = 0; k < 8; k++) sum += s->a[i * 8 + k] * b[k];
    ((Row*)s->d)[i] = sum;
  }
}

static float as_float(uint64_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static uint64_t from_float(float value) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  return bits;
}

static uint64_t combine(uint32_t kind, uint32_t type, uint64_t x, uint64_t y) {
  switch (kind) {
    case SUM: return type == FLOAT ? from_float(as_float(x) + as_float(y)) : x + y;
    case PRODUCT: return type == FLOAT ? from_float(as_float(x) * as_float(y)) : x * y;
    case MINIMUM:
      if (type == FLOAT) return from_float(fminf(as_float(x), as_float(y)));
      return type == SIGNED ? ((int64_t)x < (int64_t)y ? x : y) : (x < y ? x : y);
    case MAXIMUM:
      if (type == FLOAT) return from_float(fmaxf(as_float(x), as_float(y)));
      return type == SIGNED ? ((int64_t)x > (int64_t)y ? x : y) : (x > y ? x : y);
    case AND: return x & y;
    case OR: return x | y;
    default: return x ^ y;
  }
}

// Tree reduction of `width` aligned lanes, the order in which hardware adds; lanes outside `active` do not take part.
static void reduce(Simdgroup* s, uint32_t kind, uint32_t type, uint32_t active, uint32_t width) {
  for (uint32_t base = 0; base < LANES; base += width) {
    uint64_t value[LANES];
    uint32_t mask = width == LANES ? active : active >> base & 15;
    memcpy(value, s->in + base, width * sizeof *value);
    for (uint32_t step = width / 2; step; step /= 2)
      for (uint32_t i = 0; i < step; i++) {
        if (mask >> i & mask >> (i + step) & 1)
          value[i] = combine(kind, type, value[i], value[i + step]);
        else if (mask >> (i + step) & 1)
          value[i] = value[i + step], mask |= 1u << i;
      }
    for (uint32_t i = 0; i < width; i++) s->out[base + i] = value[0];
  }
}

static void scan(Simdgroup* s, uint32_t kind, uint32_t type, uint32_t active) {
  int product = kind == PREFIX_INCLUSIVE_PRODUCT || kind == PREFIX_EXCLUSIVE_PRODUCT;
  int inclusive = kind == PREFIX_INCLUSIVE_SUM || kind == PREFIX_INCLUSIVE_PRODUCT;
  uint64_t running = product ? (type == FLOAT ? from_float(1) : 1) : 0;
  for (int i = 0; i < LANES; i++) {
    if (!(active >> i & 1)) continue;
    uint64_t after = combine(product ? PRODUCT : SUM, type, running, s->in[i]);
    s->out[i] = inclusive ? after : running;
    running = after;
  }
}

// A value taken from a lane that is not active is undefined: all ones, which no kernel mistakes for a result.
static uint64_t read_lane(const Simdgroup* s, uint32_t active, uint32_t lane) {
  return lane < LANES && active >> lane & 1 ? s->in[lane] : UINT64_MAX;
}

static uint64_t move(const Simdgroup* s, uint32_t kind, uint32_t active, uint32_t lane) {
  uint32_t p = s->parameter[lane] & 0xFFFF, modulo = s->parameter[lane] >> 16, base = lane & ~3u;
  switch (kind) {
    case SHUFFLE: case BROADCAST: return read_lane(s, active, p);
    case BROADCAST_FIRST: return s->in[__builtin_ctz(active)];
    case SHUFFLE_XOR: return read_lane(s, active, lane ^ p);
    case SHUFFLE_UP: return lane < p ? s->in[lane] : read_lane(s, active, lane - p);
    case SHUFFLE_DOWN: return lane + p >= LANES ? s->in[lane] : read_lane(s, active, lane + p);
    case ROTATE_UP: return read_lane(s, active, (lane - p) % LANES);
    case ROTATE_DOWN: return read_lane(s, active, (lane + p) % LANES);
    case FILL_UP: return lane % modulo < p ? s->fill[lane + modulo - p] : read_lane(s, active, lane - p);
    case FILL_DOWN: return lane % modulo + p >= modulo ? s->fill[lane + p - modulo] : read_lane(s, active, lane + p);
    case QUAD_SHUFFLE: return read_lane(s, active, base + p % 4);
    case QUAD_SHUFFLE_XOR: return read_lane(s, active, lane ^ p % 4);
    case QUAD_SHUFFLE_UP: return lane % 4 < p ? s->in[lane] : read_lane(s, active, lane - p);
    default: return lane % 4 + p > 3 ? s->in[lane] : read_lane(s, active, lane + p);
  }
}

static void ballot(Simdgroup* s, uint32_t active, int quad) {
  uint64_t votes = 0;
  for (int i = 0; i < LANES; i++)
    if (active >> i & 1 && s->in[i]) votes |= 1ull << i;
  for (int i = 0; i < LANES; i++) {
    uint32_t lanes = quad ? active >> (i & ~3) & 15 : active;
    uint64_t set = quad ? votes >> (i & ~3) & 15 : votes;
    s->out[i] = set | (uint64_t)lanes << 32;  // votes below, active lanes above
  }
}

static void require_all(const Simdgroup* s, uint32_t kind) {
  uint32_t needed = kind == PRODUCT_8X8 ? UINT32_MAX : s->all;
  if (s->arrived == needed) return;
  Worker* w = s->threads[0].worker;
  w->sites[0] = s->site;
  metal_fail(w, "SIMD group %ld is at %s with %d of 32 lanes: the others do not exist or have left the kernel",
             (long)(s - w->simdgroups), names[kind], __builtin_popcount(s->arrived));
}

void metal_complete(Simdgroup* s) {
  if (s->threads[0].worker->counters) metal_counters_meet(s);
  uint32_t kind = s->operation & 0xFF, type = s->operation >> 8, active = s->arrived;
  if (kind == PRODUCT_8X8 || kind == SIMD_BARRIER) require_all(s, kind);
  if (active != s->all && s->threads[0].worker->shadow) metal_check_divergence(s);
  if (kind == SIMD_BARRIER) {
    uint32_t flags = s->parameter[__builtin_ctz(active)];
    if (flags & BARRIER_DEVICE) s->barrier_epoch[0]++;
    if (flags & BARRIER_THREADGROUP) s->barrier_epoch[1]++;
  } else if (kind == PRODUCT_8X8) {
    s->threads[0].worker->products++;
    multiply_accumulate(s);
    if (s->threads[0].worker->launch->request->nan) metal_check_products(s);
  } else if (kind <= XOR) {
    reduce(s, kind, type, active, LANES);
  } else if (kind <= PREFIX_EXCLUSIVE_PRODUCT) {
    scan(s, kind, type, active);
  } else if (kind == BALLOT || kind == QUAD_BALLOT) {
    ballot(s, active, kind == QUAD_BALLOT);
  } else if (kind >= QUAD_SUM && kind <= QUAD_XOR) {
    reduce(s, kind - QUAD_SUM + SUM, type, active, 4);
  } else {
    for (uint32_t lane = 0; lane < LANES; lane++) s->out[lane] = move(s, kind, active, lane);
  }
}
