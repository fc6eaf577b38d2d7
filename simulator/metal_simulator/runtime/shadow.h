// What the checker remembers of every cell (granule) of memory.
#pragma once
#include "runtime.h"

// An access within a threadgroup.
typedef struct {
  uint32_t epoch;  // of the barriers; 0 never
  uint32_t thread : 10, simd_epoch : 21, atomic : 1;
  uint32_t site;
} Record;

typedef struct { Record write, read, other_read; } Cell;

// An access as other threadgroups see it.
typedef struct { uint32_t group, site, thread; } Access;  // group: index + 1, 0 never
enum { PLAIN_WRITE, PLAIN_READ, ATOMIC_WRITE, ATOMIC_READ, CATEGORIES };

struct Shadow {
  Cell* threadgroup;
  Cell* buffers[MAX_BUFFERS];                // of those that the kernel may write
  Access* groups[CATEGORIES][MAX_BUFFERS];   // per cell the two lowest threadgroups that accessed it
};

static inline uint64_t region_bytes(const Region* r) { return r->high - r->low; }
static inline uint64_t cells(const Request* q, uint64_t bytes) { return (bytes + q->granule - 1) / q->granule + 1; }
