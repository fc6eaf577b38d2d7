// The checker of single accesses: races within a threadgroup, bounds, alignment, uninitialised reads, NaN.
#include "shadow.h"

#include <string.h>

typedef struct { int buffer; int64_t offset; } Place;  // offset from the address the kernel got

static uint32_t code_offset(const Launch* launch, const void* site) { return (uintptr_t)site - launch->code_low; }

static void report(Worker* w, Finding found) {
  found.group = found.other_group = w->group;
  found.thread = metal_current->context.thread_index;
  found.count = 1;
  metal_report(w->launch, w, found);
}

static void report_one(Worker* w, uint32_t kind, Place place, uint32_t size, uint32_t site) {
  report(w, (Finding){.kind = kind, .buffer = place.buffer, .offset = place.offset, .size = size, .site = site,
                      .other_thread = UINT32_MAX});
}

// Whether an earlier access is separated from the present one by a barrier that orders this memory.
static inline int ordered(const Record* earlier, Record now) {
  if (earlier->epoch != now.epoch || earlier->thread == now.thread) return 1;
  return earlier->thread / LANES == now.thread / LANES && earlier->simd_epoch != now.simd_epoch;
}

static inline void note_read(Cell* c, Record now) {
  int another = c->read.epoch == now.epoch && c->read.thread != now.thread;
  int keep = c->other_read.epoch == now.epoch && c->other_read.thread / LANES != now.thread / LANES &&
             c->read.thread / LANES == now.thread / LANES;
  if (another && !keep) c->other_read = c->read;
  c->read = now;
}

// The earlier access that this one races with, or NULL.
static inline const Record* conflict(const Cell* c, Record now, int write) {
  if (!ordered(&c->write, now) && !(now.atomic && c->write.atomic)) return &c->write;
  if (!write) return NULL;
  if (!ordered(&c->read, now) && !(now.atomic && c->read.atomic)) return &c->read;
  if (!ordered(&c->other_read, now) && !(now.atomic && c->other_read.atomic)) return &c->other_read;
  return NULL;
}

// at: bytes from the first cell; place: the same for the user.
static void check_cells(Worker* w, Cell* cell, uint64_t at, uint32_t size, int write, Record now, Place place) {
  uint32_t granule = w->launch->request->granule;
  int reported = 0;
  for (uint64_t i = at / granule; i <= (at + size - 1) / granule; i++) {
    Cell* c = &cell[i];
    const Record* other = conflict(c, now, write);
    if (other && !reported++) {
      report(w, (Finding){.kind = write && other == &c->write ? RACE_WRITE_WRITE : RACE_READ_WRITE, .buffer = place.buffer,
                          .offset = place.offset + (i * granule > at ? i * granule - at : 0), .size = size,
                          .site = now.site, .other_thread = other->thread, .other_site = other->site});
    } else if (place.buffer == THREADGROUP_MEMORY && !write && c->write.epoch < w->group_epoch && !reported++) {
      report_one(w, NEVER_WRITTEN, place, size, now.site);
    }
    if (write)
      c->write = now;
    else
      note_read(c, now);
  }
}

static void note_for_groups(Worker* w, int buffer, uint64_t at, uint32_t size, int write, Record now) {
  if (w->launch->group_count == 1) return;
  int category = now.atomic ? (write ? ATOMIC_WRITE : ATOMIC_READ) : (write ? PLAIN_WRITE : PLAIN_READ);
  Access* pairs = w->shadow->groups[category][buffer];
  Access access = {.group = (uint32_t)w->group + 1, .site = now.site, .thread = now.thread};
  uint32_t granule = w->launch->request->granule;
  for (uint64_t i = at / granule; i <= (at + size - 1) / granule; i++) {
    Access* pair = pairs + 2 * i;
    if (pair[0].group == access.group || pair[1].group == access.group) continue;
    if (!pair[0].group || access.group < pair[0].group) {
      pair[1] = pair[0];
      pair[0] = access;
    } else if (!pair[1].group || access.group < pair[1].group) {
      pair[1] = access;
    }
  }
}

static Place buffer_place(const Launch* launch, uintptr_t address) {
  int i = (address - (uintptr_t)launch->region) >> launch->slot_shift;
  return (Place){i, (int64_t)(address - launch->addresses[i])};
}

static int in_region(const Launch* launch, uintptr_t address) {
  return address - (uintptr_t)launch->region < (uint64_t)MAX_BUFFERS << launch->slot_shift;
}

static void check_buffer(Worker* w, uintptr_t address, uint32_t size, int write, Record now) {
  Launch* launch = w->launch;
  Place place = buffer_place(launch, address);
  const Region* r = &launch->request->buffers[place.buffer];
  int64_t low = r->low - r->address, high = r->high - r->address;
  if (place.offset < low || place.offset + (int64_t)size > high) {
    report_one(w, write ? OUT_OF_BOUNDS_WRITE : OUT_OF_BOUNDS_READ, place, size, now.site);
    return;
  }
  if (r->read_only) {
    if (write) report_one(w, WRITE_TO_CONST, place, size, now.site);
    return;
  }
  uint64_t at = place.offset - low;  // cells count from the lowest byte: they differ for negative strides
  uint32_t granule = launch->request->granule;
  if (write) memset(launch->written[place.buffer] + at / granule, 1, (at + size - 1) / granule - at / granule + 1);
  check_cells(w, w->shadow->buffers[place.buffer], at, size, write, now, place);
  note_for_groups(w, place.buffer, at, size, write, now);
}

static int in_arena(const Worker* w, uintptr_t address) {
  return address - ((uintptr_t)w->arena - ARENA_GUARD) < ARENA_BYTES + 2 * ARENA_GUARD;
}

// Whether bytes of the arena belong to the kernel's variables or to one of its [[threadgroup(n)]] arguments.
static int in_bounds(const Worker* w, int64_t offset, uint32_t size) {
  const Request* q = w->launch->request;
  if (offset >= 0 && offset + size <= (int64_t)q->static_bytes) return 1;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    int64_t start = w->threadgroup_arguments[i] - (uint64_t)w->arena;
    if (offset >= start && offset + size <= start + (int64_t)q->dynamic_bytes[i]) return 1;
  }
  return 0;
}

static void check_threadgroup_memory(Worker* w, uintptr_t address, uint32_t size, int write, Record now) {
  Place place = {THREADGROUP_MEMORY, (int64_t)(address - (uintptr_t)w->arena)};
  if (!in_bounds(w, place.offset, size))
    report_one(w, write ? OUT_OF_BOUNDS_WRITE : OUT_OF_BOUNDS_READ, place, size, now.site);
  else
    check_cells(w, w->shadow->threadgroup, place.offset, size, write, now, place);
}

static int in_stacks(const Worker* w, uintptr_t address) {
  return address - (uintptr_t)w->stacks < (size_t)STACK_BYTES * MAX_THREADS;
}

void metal_check_access(const void* pointer, uint32_t size, int write, int atomic, const void* site) {
  Thread* t = metal_current;
  Worker* w = t->worker;
  Launch* launch = w->launch;
  uintptr_t address = (uintptr_t)pointer;
  if (!size || in_stacks(w, address)) return;
  Record now = {.thread = t->context.thread_index, .atomic = atomic, .site = code_offset(launch, site)};
  if (in_arena(w, address)) {
    now.epoch = w->threadgroup_epoch;
    now.simd_epoch = t->simdgroup->barrier_epoch[1];
    check_threadgroup_memory(w, address, size, write, now);
  } else if (in_region(launch, address)) {
    now.epoch = w->device_epoch;
    now.simd_epoch = t->simdgroup->barrier_epoch[0];
    check_buffer(w, address, size, write, now);
  } else if (address - launch->code_low >= launch->code_high - launch->code_low &&  // constants of the program
             address - (uintptr_t)w >= sizeof *w && address - (uintptr_t)launch >= sizeof *launch) {
    Place nowhere = {NO_BUFFER, (int64_t)address};
    report_one(w, write ? OUT_OF_BOUNDS_WRITE : OUT_OF_BOUNDS_READ, nowhere, size, now.site);
  }
}

static Place any_place(const Worker* w, uintptr_t address) {
  if (in_arena(w, address)) return (Place){THREADGROUP_MEMORY, (int64_t)(address - (uintptr_t)w->arena)};
  return in_region(w->launch, address) ? buffer_place(w->launch, address) : (Place){NO_BUFFER, (int64_t)address};
}

// An access that the compiler made in the belief that the address is a multiple of its size.
void metal_check_aligned(const void* pointer, uint32_t size, const void* site) {
  uintptr_t address = (uintptr_t)pointer;
  Worker* w = metal_current->worker;
  if (address % size) report_one(w, MISALIGNED, any_place(w, address), size, code_offset(w->launch, site));
}

// The first NaN of a thread; those that follow are made of it.
static void first_nan(Thread* t, uint32_t kind, Place place, uint32_t size, const void* site) {
  if (t->met_nan) return;
  t->met_nan = 1;
  Worker* w = t->worker;
  metal_report(w->launch, w, (Finding){.kind = kind, .buffer = place.buffer, .offset = place.offset, .size = size, .count = 1,
                                       .site = code_offset(w->launch, site), .group = w->group, .other_group = w->group,
                                       .thread = t->context.thread_index, .other_thread = UINT32_MAX});
}

void metal_nan_made(uint32_t made) {
  if (made) first_nan(metal_current, NAN_MADE, (Place){NO_BUFFER, 0}, 0, __builtin_return_address(0));
}

void metal_nan_written(const void* pointer, uint32_t size, uint32_t nan) {
  Worker* w = metal_current->worker;
  if (nan && in_region(w->launch, (uintptr_t)pointer))
    first_nan(metal_current, NAN_WRITTEN, buffer_place(w->launch, (uintptr_t)pointer), size, __builtin_return_address(0));
}

static int is_unset(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits >= 0xFFFFE000u;  // a half, bfloat or float of all ones: memory or a variable that nobody has set
}

static int makes_nan(const Simdgroup* s, int element) {
  int row = element / 8 * 8, column = element % 8;
  float c = s->c[element];
  if (s->d[element] == s->d[element]) return 0;
  if (c != c) return is_unset(c);
  for (int k = 0; k < 8; k++) {
    float a = s->a[row + k], b = s->b[k * 8 + column];
    if (a != a || b != b) return is_unset(a) || is_unset(b);
  }
  return 1;
}

// After an 8x8 matrix product.
void metal_check_products(Simdgroup* s) {
  for (int lane = 0; lane < LANES; lane++) {
    Thread* t = &s->threads[lane];
    if (makes_nan(s, t->element) || makes_nan(s, t->element + 1)) first_nan(t, NAN_MADE, (Place){NO_BUFFER, 0}, 0, s->site);
  }
}
