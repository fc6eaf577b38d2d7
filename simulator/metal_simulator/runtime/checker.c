// The checker of single accesses: which memory they are in, bounds, alignment; and NaN.
#include "shadow.h"

#include <string.h>

static uint32_t code_offset(const Launch* launch, const void* site) { return (uintptr_t)site - launch->code_low; }

static void report_one(Worker* w, uint32_t kind, Place place, uint32_t size, uint32_t site) {
  metal_report_here(
      w, (Finding){.kind = kind,
                   .buffer = place.buffer,
                   .offset = place.offset,
                   .size = size,
                   .site = site,
                   .other_thread = UINT32_MAX});
}

static void note_for_groups(Worker* w, int root, uint64_t at, uint32_t size, int kind, Record now) {
  if (w->launch->group_count == 1) return;
  int category = (kind & ATOMIC ? ATOMIC_WRITE : PLAIN_WRITE) + !(kind & WRITES);
  Access* pairs = w->shadow->groups[category][root];
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

static void check_buffer(Worker* w, uintptr_t address, uint32_t size, int kind, Record now) {
  Launch* launch = w->launch;
  Place place = buffer_place(launch, address);
  const Region* r = &launch->request->buffers[place.buffer];
  int64_t low = r->low - r->address, high = r->high - r->address;
  if (place.offset < low || place.offset + (int64_t)size > high) {
    report_one(w, kind & WRITES ? OUT_OF_BOUNDS_WRITE : OUT_OF_BOUNDS_READ, place, size, now.site);
    return;
  }
  if (r->read_only && kind & WRITES) report_one(w, WRITE_TO_CONST, place, size, now.site);
  int root = launch->root[place.buffer];
  if (!launch->writable[root]) return;
  uint64_t at = r->address + place.offset - launch->low[root];
  uint32_t granule = launch->request->granule;
  if (kind & WRITES) memset(launch->written[root] + at / granule, 1, (at + size - 1) / granule - at / granule + 1);
  metal_check_cells(w, w->shadow->buffers[root], w->shadow->atomics[root], at, size, kind, now, place);
  if (launch->fences) metal_fences_access(w, root, at, size, kind, now, place);
  else note_for_groups(w, root, at, size, kind, now);
}

static int in_slots(const Worker* w, uintptr_t address) {
  return address - (uintptr_t)w->shadow->slots < (uint64_t)w->launch->request->slot_count << SLOT_SHIFT;
}

static Place slot_place(const Worker* w, uintptr_t address) {
  uint32_t slot = (address - (uintptr_t)w->shadow->slots) >> SLOT_SHIFT;
  uintptr_t start = (uintptr_t)w->arena + ((uint64_t)slot << SLOT_SHIFT) + w->launch->request->slots[slot].alignment;
  return (Place){MAX_BUFFERS + slot, (int64_t)(address - start)};
}

static void check_threadgroup_memory(Worker* w, uintptr_t address, uint32_t size, int kind, Record now) {
  Place place = slot_place(w, address);
  uint32_t slot = place.buffer - MAX_BUFFERS;
  struct Shadow* shadow = w->shadow;
  if (place.offset < 0 || place.offset + size > w->launch->request->slots[slot].bytes)
    report_one(w, kind & WRITES ? OUT_OF_BOUNDS_WRITE : OUT_OF_BOUNDS_READ, place, size, now.site);
  else
    metal_check_cells(w, shadow->threadgroup + shadow->first_cell[slot],
                      shadow->threadgroup_atomics + shadow->first_cell[slot], place.offset, size, kind, now, place);
}

static int in_stacks(const Worker* w, uintptr_t address) {
  return address - (uintptr_t)w->stacks < (size_t)STACK_BYTES * MAX_THREADS;
}

void metal_check_access(const void* pointer, uint32_t size, int kind, const void* site) {
  Thread* t = metal_current;
  Worker* w = t->worker;
  Launch* launch = w->launch;
  uintptr_t address = (uintptr_t)pointer;
  if (!size || in_stacks(w, address)) return;
  Record now = {.thread = t->context.thread_index, .site = code_offset(launch, site)};
  if (in_slots(w, address)) {
    now.epoch = w->threadgroup_epoch;
    now.simd_epoch = t->simdgroup->barrier_epoch[1];
    check_threadgroup_memory(w, address, size, kind, now);
  } else if (in_region(launch, address)) {
    now.epoch = w->device_epoch;
    now.simd_epoch = t->simdgroup->barrier_epoch[0];
    check_buffer(w, address, size, kind, now);
  } else if (address - launch->code_low >= launch->code_high - launch->code_low &&  // constants of the program
             address - (uintptr_t)w >= sizeof *w && address - (uintptr_t)launch >= sizeof *launch) {
    Place nowhere = {NO_BUFFER, (int64_t)address};
    report_one(w, kind & WRITES ? OUT_OF_BOUNDS_WRITE : OUT_OF_BOUNDS_READ, nowhere, size, now.site);
  }
}

static Place any_place(const Worker* w, uintptr_t address) {
  if (in_slots(w, address)) return slot_place(w, address);
  return in_region(w->launch, address) ? buffer_place(w->launch, address) : (Place){NO_BUFFER, (int64_t)address};
}

// An access to an address that is no multiple of what the type promises.
void metal_check_aligned(const void* pointer, uint32_t size, uint32_t alignment, const void* site) {
  Worker* w = metal_current->worker;
  if (!w->shadow || in_stacks(w, (uintptr_t)pointer)) return;
  report_one(w, MISALIGNED, any_place(w, (uintptr_t)pointer), size, code_offset(w->launch, site));
}

// A collective that some lanes of the SIMD group have not come to: they have left the kernel, past it or before it.
void metal_check_divergence(const Simdgroup* s) {
  Worker* w = s->threads[0].worker;
  uint32_t first = s->threads[0].context.thread_index;
  Finding found = {
      .kind = DIVERGENT,
      .buffer = NO_BUFFER,
      .offset = first / LANES,
      .count = 1,
      .group = w->group,
      .other_group = w->group,
      .thread = first + __builtin_ctz(s->arrived),
      .other_thread = first + __builtin_ctz(s->all & ~s->arrived),
      .site = code_offset(w->launch, s->site)};
  metal_report(w->launch, w, found);
}

// The first NaN of a thread; those that follow are made of it.
static void first_nan(Thread* t, uint32_t kind, Place place, uint32_t size, const void* site) {
  if (t->met_nan) return;
  t->met_nan = 1;
  Worker* w = t->worker;
  metal_report(
      w->launch, w,
      (Finding){.kind = kind,
                .buffer = place.buffer,
                .offset = place.offset,
                .size = size,
                .count = 1,
                .site = code_offset(w->launch, site),
                .group = w->group,
                .other_group = w->group,
                .thread = t->context.thread_index,
                .other_thread = UINT32_MAX});
}

void metal_nan_made(uint32_t made) {
  if (made) first_nan(metal_current, NAN_MADE, (Place){NO_BUFFER, 0}, 0, __builtin_return_address(0));
}

void metal_nan_written(const void* pointer, uint32_t size, uint32_t nan) {
  Worker* w = metal_current->worker;
  if (nan && in_region(w->launch, (uintptr_t)pointer))
    first_nan(
        metal_current, NAN_WRITTEN, buffer_place(w->launch, (uintptr_t)pointer), size, __builtin_return_address(0));
}

int metal_is_unset(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits >= 0xFFFFE000u;  // a half, bfloat or float of all ones: memory or a variable that nobody has set
}

static int makes_nan(const Simdgroup* s, int element) {
  int row = element / 8 * 8, column = element % 8;
  float c = s->c[element];
  if (s->d[element] == s->d[element]) return 0;
  if (c != c) return metal_is_unset(c);
  for (int k = 0; k < 8; k++) {
    float a = s->a[row + k], b = s->b[k * 8 + column];
    if (a != a || b != b) return metal_is_unset(a) || metal_is_unset(b);
  }
  return 1;
}

void metal_nan_found(Thread* t, const void* site) { first_nan(t, NAN_MADE, (Place){NO_BUFFER, 0}, 0, site); }

// After an 8x8 matrix product.
void metal_check_products(Simdgroup* s) {
  for (int lane = 0; lane < LANES; lane++) {
    Thread* t = &s->threads[lane];
    if (makes_nan(s, t->element) || makes_nan(s, t->element + 1)) metal_nan_found(t, s->site);
  }
}
