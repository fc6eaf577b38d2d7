// The checker: races, bounds and uninitialised reads, behind the hooks that clang's thread sanitizer pass inserts.
#define _GNU_SOURCE
#include "runtime.h"

#include <string.h>
#include <sys/mman.h>

// Copies of the buffers lie in the middle of slots this large, so a wrong index still tells which buffer it came from.
enum { SLOT_SHIFT = 36 };
static const uint64_t slot_bytes = 1ull << SLOT_SHIFT;
enum { POISON_BYTES = 1 << 16 };

typedef struct {
  uint32_t epoch;  // of the barriers; 0 never
  uint32_t thread : 10, simd_epoch : 21, atomic : 1;
  uint32_t site;
} Record;

typedef struct { Record write, read, other_read; } Cell;

struct Shadow {
  Cell* threadgroup;
  Cell* buffers[MAX_BUFFERS];
};

static void* reserve(uint64_t bytes) {
  void* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static void release(void* memory, uint64_t bytes) {
  if (memory) munmap(memory, bytes);
}

static uint64_t length(const Region* r) { return r->high - r->low; }
static uint64_t cells(const Request* q, uint64_t bytes) { return (bytes + q->granule - 1) / q->granule + 1; }

int metal_copies_open(Launch* launch) {
  Request* q = launch->request;
  launch->region = reserve(slot_bytes * MAX_BUFFERS);
  if (!launch->region) return 1;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    Region* r = &q->buffers[i];
    char* low = launch->region + slot_bytes * i + slot_bytes / 2 + (r->low & 63);
    if (r->address) {
      memset(low - POISON_BYTES, 0xFF, POISON_BYTES);
      memcpy(low, (void*)r->low, length(r));
      memset(low + length(r), 0xFF, POISON_BYTES);
    }
    launch->addresses[i] = (uint64_t)low + (r->address - r->low);
    launch->written[i] = reserve(cells(q, length(r)));
    if (!launch->written[i]) return 1;
  }
  return 0;
}

// Only what the kernel wrote goes back: the gaps of a strided tensor belong to others.
static void copy_back(Launch* launch, int i) {
  const Request* q = launch->request;
  const Region* r = &q->buffers[i];
  char *from = (char*)launch->addresses[i] - (r->address - r->low), *to = (char*)r->low;
  for (uint64_t at = 0; at < length(r); at += q->granule) {
    if (!launch->written[i][at / q->granule]) continue;
    uint64_t rest = length(r) - at;
    memcpy(to + at, from + at, rest < q->granule ? rest : q->granule);
  }
}

void metal_copies_close(Launch* launch) {
  for (int i = 0; i < MAX_BUFFERS; i++) {
    if (launch->request->buffers[i].address) copy_back(launch, i);
    release(launch->written[i], cells(launch->request, length(&launch->request->buffers[i])));
  }
  munmap(launch->region, slot_bytes * MAX_BUFFERS);
}

int metal_shadow_open(Worker* w) {
  const Request* q = w->launch->request;
  struct Shadow* shadow = w->shadow = reserve(sizeof *shadow);
  if (!shadow) return 1;
  shadow->threadgroup = reserve(cells(q, ARENA_BYTES) * sizeof(Cell));
  for (int i = 0; i < MAX_BUFFERS; i++) shadow->buffers[i] = reserve(cells(q, length(&q->buffers[i])) * sizeof(Cell));
  return 0;
}

void metal_shadow_close(Worker* w) {
  const Request* q = w->launch->request;
  release(w->shadow->threadgroup, cells(q, ARENA_BYTES) * sizeof(Cell));
  for (int i = 0; i < MAX_BUFFERS; i++)
    release(w->shadow->buffers[i], cells(q, length(&q->buffers[i])) * sizeof(Cell));
  release(w->shadow, sizeof *w->shadow);
  w->shadow = NULL;
}

static void report(Worker* w, Finding found) {
  Launch* launch = w->launch;
  Request* q = launch->request;
  found.group = w->group;
  found.thread = metal_current->context.thread_index;
  found.count = 1;
  pthread_mutex_lock(&launch->lock);
  uint32_t i = 0;
  for (; i < q->finding_count; i++) {
    Finding* f = &q->findings[i];
    if (f->kind != found.kind || f->buffer != found.buffer || f->site != found.site || f->other_site != found.other_site)
      continue;
    found.count = f->count + 1;
    if (found.group < f->group) *f = found;  // the example is that of the first threadgroup, whoever runs first
    f->count = found.count;
    break;
  }
  if (i == q->finding_count && i < MAX_FINDINGS) q->findings[q->finding_count++] = found;
  pthread_mutex_unlock(&launch->lock);
}

// Whether an earlier access is separated from the present one by a barrier that orders this memory.
static int ordered(const Worker* w, const Record* earlier, uint32_t epoch, uint32_t simd_epoch) {
  uint32_t thread = metal_current->context.thread_index;
  if (earlier->epoch != epoch || earlier->thread == thread) return 1;
  return earlier->thread / LANES == thread / LANES && earlier->simd_epoch != simd_epoch;
}

static void note_read(Cell* c, Record now) {
  int another = c->read.epoch == now.epoch && c->read.thread != now.thread;
  int keep = c->other_read.epoch == now.epoch && c->other_read.thread / LANES != now.thread / LANES &&
             c->read.thread / LANES == now.thread / LANES;
  if (another && !keep) c->other_read = c->read;
  c->read = now;
}

// The earlier access that this one races with, or NULL.
static const Record* conflict(const Worker* w, const Cell* c, Record now, int write) {
  if (!(now.atomic && c->write.atomic) && !ordered(w, &c->write, now.epoch, now.simd_epoch)) return &c->write;
  if (!write) return NULL;
  if (!(now.atomic && c->read.atomic) && !ordered(w, &c->read, now.epoch, now.simd_epoch)) return &c->read;
  if (!(now.atomic && c->other_read.atomic) && !ordered(w, &c->other_read, now.epoch, now.simd_epoch))
    return &c->other_read;
  return NULL;
}

static void check_cells(Worker* w, Cell* cell, int64_t offset, uint32_t size, int write, Record now, int buffer) {
  uint32_t granule = w->launch->request->granule;
  int reported = 0;
  for (int64_t i = offset / granule; i <= (offset + size - 1) / granule; i++) {
    Cell* c = &cell[i];
    const Record* other = conflict(w, c, now, write);
    Finding found = {.offset = i * granule, .size = size, .buffer = buffer, .site = now.site, .other_thread = UINT32_MAX};
    if (found.offset < offset) found.offset = offset;
    if (other && !reported++) {
      found.kind = write && other == &c->write ? FINDING_RACE_WRITE_WRITE : FINDING_RACE_READ_WRITE;
      found.other_thread = other->thread;
      found.other_site = other->site;
      report(w, found);
    } else if (buffer < 0 && !write && c->write.epoch < w->group_epoch && !reported++) {
      found.kind = FINDING_UNINITIALISED;
      report(w, found);
    }
    if (write)
      c->write = now;
    else
      note_read(c, now);
  }
}

static void out_of_bounds(Worker* w, int buffer, int64_t offset, uint32_t size, int write, uint32_t site) {
  report(w, (Finding){.kind = write ? FINDING_OUT_OF_BOUNDS_WRITE : FINDING_OUT_OF_BOUNDS_READ, .buffer = buffer,
                      .offset = offset, .size = size, .site = site, .other_thread = UINT32_MAX});
}

static void check_buffer(Worker* w, uintptr_t address, uint32_t size, int write, Record now) {
  Launch* launch = w->launch;
  int i = (address - (uintptr_t)launch->region) >> SLOT_SHIFT;
  const Region* r = &launch->request->buffers[i];
  int64_t offset = address - launch->addresses[i], low = r->low - r->address, high = r->high - r->address;
  if (offset < low || offset + (int64_t)size > high) {
    out_of_bounds(w, i, offset, size, write, now.site);
    return;
  }
  uint64_t at = offset - low;
  uint32_t granule = launch->request->granule;
  if (write) memset(launch->written[i] + at / granule, 1, (at + size - 1) / granule - at / granule + 1);
  // Cells count from the lowest byte; findings from the buffer's address. They agree but for negative strides.
  check_cells(w, w->shadow->buffers[i], at, size, write, now, i);
}

void metal_check_access(const void* pointer, uint32_t size, int write, int atomic, const void* site) {
  Thread* t = metal_current;
  Worker* w = t->worker;
  uintptr_t address = (uintptr_t)pointer;
  if (address - (uintptr_t)w->stacks < (size_t)STACK_BYTES * MAX_THREADS) return;
  Launch* launch = w->launch;
  uint32_t at = (uint32_t)((uintptr_t)site - launch->code_low);
  Record now = {.thread = t->context.thread_index, .atomic = atomic, .site = at};
  uintptr_t in_arena = address - ((uintptr_t)w->arena - ARENA_GUARD);
  if (in_arena < ARENA_BYTES + 2 * ARENA_GUARD) {
    int64_t offset = (int64_t)in_arena - ARENA_GUARD;
    int64_t limit = w->threadgroup_arguments[MAX_BUFFERS - 1] - (uint64_t)w->arena;
    now.epoch = w->threadgroup_epoch;
    now.simd_epoch = t->simdgroup->barrier_epoch[1];
    if (offset < 0 || offset + (int64_t)size > limit)
      out_of_bounds(w, -1, offset, size, write, at);
    else
      check_cells(w, w->shadow->threadgroup, offset, size, write, now, -1);
    return;
  }
  if (address - (uintptr_t)launch->region < slot_bytes * MAX_BUFFERS) {
    now.epoch = w->device_epoch;
    now.simd_epoch = t->simdgroup->barrier_epoch[0];
    check_buffer(w, address, size, write, now);
    return;
  }
  if (address - launch->code_low < launch->code_high - launch->code_low) return;        // constants of the program
  if (address - (uintptr_t)w < sizeof *w || address - (uintptr_t)launch < sizeof *launch) return;
  out_of_bounds(w, -2, (int64_t)address, size, write, at);
}
