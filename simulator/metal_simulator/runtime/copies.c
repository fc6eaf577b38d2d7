// Checking launches work on copies of the buffers, each in the middle of address space of its own.
#define _GNU_SOURCE
#include "shadow.h"

#include <string.h>
#include <sys/mman.h>

// A wrong index up to half a slot away still names its buffer; only a shortage of address space makes slots smaller.
enum { LARGEST_SLOT_SHIFT = 41, SMALLEST_SLOT_SHIFT = 36, POISON_BYTES = 1 << 16 };

static void* reserve(uint64_t bytes) {
  void* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static void release(void* memory, uint64_t bytes) {
  if (memory) munmap(memory, bytes);
}

// Buffers lie at irregular distances, so that no simple stride leads from one into another.
static uint64_t place(const Launch* launch, int i) {
  uint64_t slot = 1ull << launch->slot_shift, noise = (i + 1) * 0x9E3779B97F4A7C15u;
  return slot * i + slot / 2 + (noise % (slot / 8) & ~0xFFFFull);
}

static int reserve_region(Launch* launch) {
  for (launch->slot_shift = LARGEST_SLOT_SHIFT; launch->slot_shift >= SMALLEST_SLOT_SHIFT; launch->slot_shift--)
    if ((launch->region = reserve((uint64_t)MAX_BUFFERS << launch->slot_shift))) return 0;
  return 1;
}

int metal_copies_open(Launch* launch) {
  Request* q = launch->request;
  if (reserve_region(launch)) return 1;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    Region* r = &q->buffers[i];
    char* low = launch->region + place(launch, i) + (r->low & 63);
    if (r->address) {
      memset(low - POISON_BYTES, 0xFF, POISON_BYTES);
      memcpy(low, (void*)r->low, region_bytes(r));
      memset(low + region_bytes(r), 0xFF, POISON_BYTES);
    }
    launch->addresses[i] = (uint64_t)low + (r->address - r->low);
    launch->written[i] = q->written[i] ? q->written[i] : reserve(cells(q, region_bytes(r)));
    if (!launch->written[i]) return 1;
  }
  return 0;
}

// Only what the kernel wrote goes back: the gaps of a strided tensor belong to others.
static void copy_back(Launch* launch, int i) {
  const Request* q = launch->request;
  const Region* r = &q->buffers[i];
  char *from = (char*)launch->addresses[i] - (r->address - r->low), *to = (char*)r->low;
  for (uint64_t at = 0; at < region_bytes(r); at += q->granule) {
    if (!launch->written[i][at / q->granule]) continue;
    uint64_t rest = region_bytes(r) - at;
    memcpy(to + at, from + at, rest < q->granule ? rest : q->granule);
  }
}

void metal_copies_close(Launch* launch) {
  Request* q = launch->request;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    if (q->buffers[i].address && !q->buffers[i].read_only) copy_back(launch, i);
    if (!q->written[i]) release(launch->written[i], cells(q, region_bytes(&q->buffers[i])));
  }
  munmap(launch->region, (uint64_t)MAX_BUFFERS << launch->slot_shift);
}

// Which cells a buffer needs: what nobody may write cannot be raced for.
static uint64_t shadow_cells(const Request* q, int i) {
  return q->buffers[i].read_only ? 0 : cells(q, region_bytes(&q->buffers[i]));
}

int metal_shadow_open(Worker* w) {
  const Request* q = w->launch->request;
  struct Shadow* shadow = w->shadow = reserve(sizeof *shadow);
  if (!shadow || !(shadow->threadgroup = reserve(cells(q, ARENA_BYTES) * sizeof(Cell)))) return 1;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    uint64_t count = shadow_cells(q, i);
    if (!count) continue;
    if (!(shadow->buffers[i] = reserve(count * sizeof(Cell)))) return 1;
    for (int c = 0; c < CATEGORIES; c++)
      if (!(shadow->groups[c][i] = reserve(count * 2 * sizeof(Access)))) return 1;
  }
  return 0;
}

void metal_shadow_close(Worker* w) {
  const Request* q = w->launch->request;
  release(w->shadow->threadgroup, cells(q, ARENA_BYTES) * sizeof(Cell));
  for (int i = 0; i < MAX_BUFFERS; i++) {
    uint64_t count = shadow_cells(q, i);
    release(w->shadow->buffers[i], count * sizeof(Cell));
    for (int c = 0; c < CATEGORIES; c++) release(w->shadow->groups[c][i], count * 2 * sizeof(Access));
  }
  release(w->shadow, sizeof *w->shadow);
  w->shadow = NULL;
}
