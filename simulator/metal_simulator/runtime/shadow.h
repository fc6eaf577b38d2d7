// What the checker remembers of every cell (granule) of memory.
#pragma once
#include "runtime.h"

// An access within a threadgroup.
typedef struct {
  uint32_t epoch;  // of the barriers; 0 never
  uint32_t thread : 10, simd_epoch : 22;
  uint32_t site;
} Record;

typedef struct {
  Record last, other;
} Pair;  // of different threads: another access that races with neither races with none
typedef struct {
  Record write;
  Pair reads;
} Cell;
typedef struct { Pair writes, reads; } AtomicCell;

// An access as other threadgroups see it.
typedef struct { uint32_t group, site, thread; } Access;  // group: index + 1, 0 never
enum { PLAIN_WRITE, PLAIN_READ, ATOMIC_WRITE, ATOMIC_READ, CATEGORIES };

typedef struct {
  int buffer;
  int64_t offset;
} Place;  // as in a Finding

struct Shadow {
  int atomics_met;       // since then the cells of atomic accesses hold something
  char* slots;           // address space of threadgroup memory
  uint64_t* first_cell;  // of each slot
  Cell* threadgroup;
  AtomicCell* threadgroup_atomics;
  // By root buffer, of those that the kernel may write:
  Cell* buffers[MAX_BUFFERS];
  AtomicCell* atomics[MAX_BUFFERS];
  Access* groups[CATEGORIES][MAX_BUFFERS];  // per cell the two lowest threadgroups that accessed it
};

void metal_check_cells(Worker* worker, Cell* cells, AtomicCell* atomics, uint64_t at, uint32_t size, int kind,
                       Record now, Place place);
void metal_fences_access(Worker* worker, int root, uint64_t at, uint32_t size, int kind, Record now, Place place);
void metal_report_here(Worker* worker, Finding found);

static inline uint64_t region_bytes(const Region* r) { return r->high - r->low; }
static inline uint64_t memory_bytes(const Launch* l, int root) { return l->high[root] - l->low[root]; }
static inline uint64_t cells(const Request* q, uint64_t bytes) { return (bytes + q->granule - 1) / q->granule + 1; }
