// What the last lane to arrive at a collective computes for all lanes of its SIMD group.
#include "runtime.h"

#include <math.h>
#include <string.h>

#define TEXT(name, text) text,
static const char* const names[COLLECTIVES] = {__METAL_COLLECTIVES(TEXT)};

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
      return type & SIGNED ? ((int64_t)x < (int64_t)y ? x : y) : (x < y ? x : y);
    case MAXIMUM:
      if (type == FLOAT) return from_float(fmaxf(as_float(x), as_float(y)));
      return type & SIGNED ? ((int64_t)x > (int64_t)y ? x : y) : (x > y ? x : y);
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
        if (mask >> i & mask >> (i + step) & 1) value[i] = combine(kind, type, value[i], value[i + step]);
        else if (mask >> (i + step) & 1) value[i] = value[i + step], mask |= 1u << i;
      }
    for (uint32_t i = 0; i < width; i++) s->out[base + i] = value[0];
  }
}

static void scan(Simdgroup* s, uint32_t kind, uint32_t type, uint32_t active, uint32_t width) {
  int product = kind == PREFIX_INCLUSIVE_PRODUCT || kind == PREFIX_EXCLUSIVE_PRODUCT;
  int inclusive = kind == PREFIX_INCLUSIVE_SUM || kind == PREFIX_INCLUSIVE_PRODUCT;
  uint64_t start = product ? (type == FLOAT ? from_float(1) : 1) : 0, running = start;
  for (uint32_t i = 0; i < LANES; i++) {
    if (i % width == 0) running = start;
    if (!(active >> i & 1)) continue;
    uint64_t after = combine(product ? PRODUCT : SUM, type, running, s->in[i]);
    s->out[i] = inclusive ? after : running;
    running = after;
  }
}

// What is undefined is all ones, which no kernel mistakes for a result: values of lanes that are not active or not in the
// group, and fillings with a modulo or a delta that does not fit.
#define UNDEFINED UINT64_MAX

static uint64_t move(const Simdgroup* s, uint32_t kind, uint32_t active, uint32_t lane, uint32_t width) {
  uint32_t p = s->parameter[lane] & 0xFFFF, modulo = s->parameter[lane] >> 16, base = lane & -width, at = lane % width;
  uint32_t source = at, within;  // in the group, and in its part of `modulo` lanes
  const uint64_t* from = s->in;
  switch (kind) {
    case SHUFFLE:
    case BROADCAST: source = p; break;
    case BROADCAST_FIRST: source = __builtin_ctz(active >> base); break;
    case SHUFFLE_XOR: source = at ^ p; break;
    case SHUFFLE_UP:
      if (at >= p) source = at - p;
      break;
    case SHUFFLE_DOWN:
      if (at + p < width) source = at + p;
      break;
    case ROTATE_UP: source = (at - p) % width; break;
    case ROTATE_DOWN: source = (at + p) % width; break;
    default:  // FILL_UP, FILL_DOWN
      if (modulo < 2 || modulo > width || modulo & (modulo - 1) || p > modulo) return UNDEFINED;
      within = at % modulo + (kind == FILL_UP ? -p : p);
      source = at - at % modulo + within % modulo;
      if (within >= modulo) from = s->fill;
  }
  return source < width && active >> (base + source) & 1 ? from[base + source] : UNDEFINED;
}

static void ballot(Simdgroup* s, uint32_t active, uint32_t width) {
  uint32_t votes = 0, group = UINT32_MAX >> (LANES - width);
  for (int i = 0; i < LANES; i++)
    if (active >> i & 1 && s->in[i]) votes |= 1u << i;
  for (uint32_t i = 0; i < LANES; i++) {
    uint32_t base = i & -width;  // votes below, active lanes above
    s->out[i] = (votes >> base & group) | (uint64_t)(active >> base & group) << 32;
  }
}

static void require_all(const Simdgroup* s, uint32_t kind) {
  uint32_t needed = kind == SIMD_BARRIER ? s->all : UINT32_MAX;
  if (s->arrived == needed) return;
  Worker* w = s->threads[0].worker;
  w->sites[0] = s->site;
  metal_fail(w, "SIMD group %ld is at %s with %d of 32 lanes: the others do not exist or have left the kernel",
             (long)(s - w->simdgroups), names[kind], __builtin_popcount(s->arrived));
}

void metal_complete(Simdgroup* s) {
  if (s->threads[0].worker->counters) metal_counters_meet(s);
  uint32_t kind = s->operation & 0xFF, type = s->operation >> 8, active = s->arrived;
  if (kind <= ROW_REDUCTION) require_all(s, kind);
  if (active != s->all && s->threads[0].worker->shadow) metal_check_divergence(s);
  if (kind == SIMD_BARRIER) {
    uint32_t flags = s->parameter[__builtin_ctz(active)];
    if (flags & BARRIER_DEVICE) s->barrier_epoch[0]++;
    if (flags & BARRIER_THREADGROUP) s->barrier_epoch[1]++;
  } else if (kind == PRODUCT_8X8) {
    s->threads[0].worker->products++;
    multiply_accumulate(s);
    if (s->threads[0].worker->launch->request->nan) metal_check_products(s);
  } else if (kind == MATRIX_UNIT) {
    s->threads[0].worker->unit_products++;
    metal_multiply_tensors(s);
  } else if (kind == ROW_REDUCTION) {
    metal_reduce_tensor(s);
  } else if (kind != MATRIX_STORE) {
    uint32_t width = kind < QUAD_SUM ? LANES : 4;
    if (kind >= QUAD_SUM) kind -= QUAD_SUM - SUM;
    if (kind <= XOR) reduce(s, kind, type, active, width);
    else if (kind <= PREFIX_EXCLUSIVE_PRODUCT) scan(s, kind, type, active, width);
    else if (kind == BALLOT) ballot(s, active, width);
    else
      for (uint32_t lane = 0; lane < LANES; lane++)
        if (active >> lane & 1) s->out[lane] = move(s, kind, active, lane, width);
  }
}
