// Races within a threadgroup, and reads of threadgroup memory that nobody wrote.
#include "shadow.h"

// Objects have less padding than this in one place: of a copied one, as many bytes in a row must be unwritten.
enum { PADDING = 16 };

void metal_report_here(Worker* w, Finding found) {
  found.group = found.other_group = w->group;
  found.thread = metal_current->context.thread_index;
  found.count = 1;
  metal_report(w->launch, w, found);
}

// Whether an earlier access is separated from the present one by a barrier that orders this memory.
static inline int ordered(const Record* earlier, Record now) {
  if (earlier->epoch != now.epoch || earlier->thread == now.thread) return 1;
  return earlier->thread / LANES == now.thread / LANES && earlier->simd_epoch != now.simd_epoch;
}

static inline void note(Pair* pair, Record now) {
  int another = pair->last.epoch == now.epoch && pair->last.thread != now.thread;
  int keep = pair->other.epoch == now.epoch && pair->other.thread / LANES != now.thread / LANES &&
             pair->last.thread / LANES == now.thread / LANES;
  if (another && !keep) pair->other = pair->last;
  pair->last = now;
}

static inline const Record* racing(const Pair* pair, Record now) {
  if (!ordered(&pair->last, now)) return &pair->last;
  return ordered(&pair->other, now) ? NULL : &pair->other;
}

// The earlier access that this one races with, or NULL. writes: set when both write. a: NULL before any atomic access.
static inline const Record* conflict(const Cell* c, const AtomicCell* a, int kind, Record now, int* writes) {
  const Record* found = ordered(&c->write, now) ? NULL : &c->write;
  if (!found && a && !(kind & ATOMIC)) found = racing(&a->writes, now);
  *writes = found && kind & WRITES;
  if (!found && kind & WRITES) found = racing(&c->reads, now);
  if (!found && kind & WRITES && a && !(kind & ATOMIC)) found = racing(&a->reads, now);
  return found;
}

static inline int written(const Worker* w, const Cell* c, const AtomicCell* a) {
  return c->write.epoch >= w->group_epoch || (a && a->writes.last.epoch >= w->group_epoch);
}

// at: bytes from the first cell; place: the same for the user.
void metal_check_cells(Worker* w, Cell* cell, AtomicCell* atomics, uint64_t at, uint32_t size, int kind, Record now,
                       Place place) {
  uint32_t granule = w->launch->request->granule, unset = 0, needed = 1;
  int raced = 0, reads = place.buffer >= MAX_BUFFERS && kind & READS;
  uint64_t end = at + (kind & THREE ? size - size / 4 : size);  // bytes that somebody must have written
  if (kind & COPIES) needed = (size < PADDING ? size : PADDING) / granule;
  if (kind & ATOMIC) w->shadow->atomics_met = 1;
  for (uint64_t i = at / granule; i <= (at + size - 1) / granule; i++) {
    Cell* c = &cell[i];
    AtomicCell* a = w->shadow->atomics_met ? &atomics[i] : NULL;
    int writes;
    const Record* other = conflict(c, a, kind, now, &writes);
    if (other && !raced++)
      metal_report_here(
          w, (Finding){.kind = writes ? RACE_WRITE_WRITE : RACE_READ_WRITE,
                       .buffer = place.buffer,
                       .offset = place.offset + (i * granule > at ? i * granule - at : 0),
                       .size = size,
                       .site = now.site,
                       .other_thread = other->thread,
                       .other_site = other->site});
    if (reads && !raced && i * granule < end) {
      unset = written(w, c, a) ? 0 : unset + 1;
      if (unset == needed) {
        metal_report_here(
            w, (Finding){.kind = NEVER_WRITTEN,
                         .buffer = place.buffer,
                         .offset = place.offset,
                         .size = size,
                         .site = now.site,
                         .other_thread = UINT32_MAX});
        reads = 0;
      }
    }
    if (kind & ATOMIC) note(kind & WRITES ? &a->writes : &a->reads, now);
    else if (kind & WRITES) c->write = now;
    else note(&c->reads, now);
  }
}
