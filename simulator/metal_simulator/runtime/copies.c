// Checking launches work on copies of the buffers, each in the middle of address space of its own. Buffers that overlap are
// the same memory at several addresses, so that the bounds of each hold and a race through two of them is one; a buffer that
// is bound twice has one address.
#define _GNU_SOURCE
#include "shadow.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

// A wrong index up to half a slot away still names its buffer; only a shortage of address space makes slots smaller.
enum { LARGEST_SLOT_SHIFT = 41, SMALLEST_SLOT_SHIFT = 36, POISON_BYTES = 1 << 16, SLOT_POISON = 4096 };

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

// Buffers that overlap, one through the other perhaps, get the lowest of them as their root.
static void find_roots(Launch* l) {
  const Request* q = l->request;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    const Region* r = &q->buffers[i];
    l->root[i] = i;
    l->low[i] = r->low & ~63ull;
    l->high[i] = r->high > r->low ? r->high : l->low[i];
    l->writable[i] = r->high > r->low && !r->read_only;
  }
  for (int changed = 1; changed;) {
    changed = 0;
    for (int i = 0; i < MAX_BUFFERS; i++)
      for (int j = i + 1; j < MAX_BUFFERS; j++) {
        int a = l->root[i], b = l->root[j];
        if (a == b || q->buffers[i].low >= q->buffers[j].high || q->buffers[j].low >= q->buffers[i].high) continue;
        for (int k = 0; k < MAX_BUFFERS; k++)
          if (l->root[k] == (a > b ? a : b)) l->root[k] = a < b ? a : b;
        changed = 1;
      }
  }
  for (int i = 0; i < MAX_BUFFERS; i++) {
    int root = l->root[i];
    if (l->low[i] < l->low[root]) l->low[root] = l->low[i];
    if (l->high[i] > l->high[root]) l->high[root] = l->high[i];
    l->writable[root] |= l->writable[i];
  }
}

static int is_shared(const Launch* l, int root) {
  for (int i = 0; i < MAX_BUFFERS; i++)
    if (i != root && l->root[i] == root) return 1;
  return 0;
}

// The bytes of `root` at several addresses at once. Returns -1 when that cannot be.
static int share(const Launch* l, int root) {
  int file = memfd_create("metal_simulator", MFD_CLOEXEC);
  uint64_t page = l->low[root] & 4095, bytes = page + memory_bytes(l, root);
  if (file < 0 || ftruncate(file, bytes)) return -1;
  char* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED) return close(file), -1;
  memset(memory, 0xFF, bytes);
  for (int i = 0; i < MAX_BUFFERS; i++)  // only what is an argument may be read at all
    if (l->root[i] == root)
      memcpy(memory + page + (l->request->buffers[i].low - l->low[root]), (void*)l->request->buffers[i].low,
             region_bytes(&l->request->buffers[i]));
  munmap(memory, bytes);
  return file;
}

// The copy of buffer i; file: the memory that it shares, or -1.
static int make_copy(Launch* l, int i, int file) {
  const Region* r = &l->request->buffers[i];
  char* low = l->region + place(l, i) + (r->low & 63);
  if (file >= 0) {
    uint64_t page = l->low[l->root[i]] & 4095, bytes = page + memory_bytes(l, l->root[i]);
    char* start = l->region + place(l, i);
    low = start + page + (r->low - l->low[l->root[i]]);
    memset(start - POISON_BYTES, 0xFF, POISON_BYTES);
    memset(start + (bytes & ~4095ull), 0xFF, POISON_BYTES);
    if (mmap(start, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED) return 1;
    memset(start + bytes, 0xFF, -bytes & 4095);
  } else if (r->address) {
    memset(low - POISON_BYTES, 0xFF, POISON_BYTES);
    memcpy(low, (void*)r->low, region_bytes(r));
    memset(low + region_bytes(r), 0xFF, POISON_BYTES);
  }
  l->addresses[i] = (uint64_t)low + (r->address - r->low);
  return 0;
}

// The buffer at whose address buffer i lies: kernels compare the pointers of one buffer bound twice. A writable one if there
// is any, as writes through the address are checked against it.
static int twin(const Launch* l, int i) {
  const Region *r = &l->request->buffers[i], *other;
  int found = i;
  for (int j = MAX_BUFFERS - 1; j >= 0 && r->low < r->high; j--) {
    other = &l->request->buffers[j];
    if (other->low != r->low || other->high != r->high || other->address != r->address) continue;
    if (!other->read_only || l->request->buffers[found].read_only) found = j;
  }
  return found;
}

int metal_copies_open(Launch* launch) {
  const Request* q = launch->request;
  find_roots(launch);
  if (reserve_region(launch)) return 1;
  for (int root = 0; root < MAX_BUFFERS; root++) {
    if (launch->root[root] != root) continue;
    launch->written[root] = reserve(cells(q, memory_bytes(launch, root)));
    int shared = is_shared(launch, root), file = shared ? share(launch, root) : -1, failed = !launch->written[root];
    for (int i = root; i < MAX_BUFFERS; i++)
      if (launch->root[i] == root && twin(launch, i) == i) failed |= make_copy(launch, i, file);
    for (int i = root; i < MAX_BUFFERS; i++)
      if (launch->root[i] == root) launch->addresses[i] = launch->addresses[twin(launch, i)];
    if (file >= 0) close(file);
    if (failed || (shared && file < 0)) return 1;
  }
  return 0;
}

static const unsigned char* written_cells(const Launch* launch, int i) {
  int root = launch->root[i];
  return launch->written[root] + (launch->request->buffers[i].low - launch->low[root]) / launch->request->granule;
}

// Only what the kernel wrote goes back: the gaps of a strided tensor belong to others.
static void copy_back(Launch* launch, int i) {
  const Request* q = launch->request;
  const Region* r = &q->buffers[i];
  const unsigned char* written = written_cells(launch, i);
  char *from = (char*)launch->addresses[i] - (r->address - r->low), *to = (char*)r->low;
  for (uint64_t at = 0; at < region_bytes(r); at += q->granule) {
    if (!written[at / q->granule]) continue;
    uint64_t rest = region_bytes(r) - at;
    memcpy(to + at, from + at, rest < q->granule ? rest : q->granule);
  }
}

// keep: whether what the kernel wrote goes to the buffers.
void metal_copies_close(Launch* launch, int keep) {
  Request* q = launch->request;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    const Region* r = &q->buffers[i];
    if (keep && r->address && !r->read_only) copy_back(launch, i);
    if (keep && q->written[i]) memcpy(q->written[i], written_cells(launch, i), cells(q, region_bytes(r)) - 1);
  }
  for (int i = 0; i < MAX_BUFFERS; i++)
    if (launch->root[i] == i) release(launch->written[i], cells(q, memory_bytes(launch, i)));
  munmap(launch->region, (uint64_t)MAX_BUFFERS << launch->slot_shift);
}

// Which cells a buffer needs: what nobody may write cannot be raced for.
static uint64_t shadow_cells(const Launch* l, int i) {
  return l->root[i] == i && l->writable[i] ? cells(l->request, memory_bytes(l, i)) : 0;
}

static int open_slots(Worker* w) {
  const Request* q = w->launch->request;
  struct Shadow* shadow = w->shadow;
  uint64_t count = 0;
  if (!(shadow->first_cell = reserve((q->slot_count + 1) * sizeof *shadow->first_cell))) return 1;
  for (uint32_t i = 0; i < q->slot_count; i++) {
    shadow->first_cell[i] = count;
    count += cells(q, q->slots[i].bytes);
  }
  shadow->first_cell[q->slot_count] = count;
  shadow->threadgroup = reserve((count + 1) * sizeof(Cell));
  shadow->threadgroup_atomics = reserve((count + 1) * sizeof(AtomicCell));
  if (!shadow->threadgroup || !shadow->threadgroup_atomics) return 1;
  if (!q->slot_count) return 0;
  if (!(shadow->slots = reserve((uint64_t)q->slot_count << SLOT_SHIFT))) return 1;
  w->arena = shadow->slots + (1ull << (SLOT_SHIFT - 3));  // most far indices are differences below 0, taken as unsigned
  for (uint32_t i = 0; i < q->slot_count; i++) {
    char* start = w->arena + ((uint64_t)i << SLOT_SHIFT);
    memset(start - SLOT_POISON, 0xFF, 2 * SLOT_POISON + q->slots[i].alignment + q->slots[i].bytes);
  }
  return 0;
}

int metal_shadow_open(Worker* w) {
  const Launch* l = w->launch;
  struct Shadow* shadow = w->shadow = reserve(sizeof *shadow);
  if (!shadow || open_slots(w)) return 1;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    uint64_t count = shadow_cells(l, i);
    if (!count) continue;
    if (!(shadow->buffers[i] = reserve(count * sizeof(Cell)))) return 1;
    if (!(shadow->atomics[i] = reserve(count * sizeof(AtomicCell)))) return 1;
    for (int c = 0; c < CATEGORIES; c++)
      if (!(shadow->groups[c][i] = reserve(count * 2 * sizeof(Access)))) return 1;
  }
  return 0;
}

// Before a threadgroup: its memory holds nothing.
void metal_shadow_reset(Worker* w) {
  const Request* q = w->launch->request;
  for (uint32_t i = 0; i < q->slot_count; i++)
    memset(w->arena + ((uint64_t)i << SLOT_SHIFT) + q->slots[i].alignment, 0xFF, q->slots[i].bytes);
}

void metal_shadow_close(Worker* w) {
  const Request* q = w->launch->request;
  struct Shadow* shadow = w->shadow;
  uint64_t count = shadow->first_cell[q->slot_count] + 1;
  release(shadow->threadgroup, count * sizeof(Cell));
  release(shadow->threadgroup_atomics, count * sizeof(AtomicCell));
  release(shadow->slots, (uint64_t)q->slot_count << SLOT_SHIFT);
  release(shadow->first_cell, (q->slot_count + 1) * sizeof *shadow->first_cell);
  for (int i = 0; i < MAX_BUFFERS; i++) {
    count = shadow_cells(w->launch, i);
    release(shadow->buffers[i], count * sizeof(Cell));
    release(shadow->atomics[i], count * sizeof(AtomicCell));
    for (int c = 0; c < CATEGORIES; c++) release(shadow->groups[c][i], count * 2 * sizeof(Access));
  }
  release(shadow, sizeof *shadow);
  w->shadow = NULL;
}
