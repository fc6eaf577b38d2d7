// Races between threadgroups of a kernel that has fences of device scope. What a threadgroup does before a release fence is
// ordered before what another does after an acquire fence, if between the two an atomic operation of the other reads what
// an atomic operation of the first has written. Such launches have one worker, so one threadgroup runs at a time.
#include "shadow.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { SCOPE_DEVICE = 3, MANY = MAX_THREADS };  // thread_scope; several threads of a threadgroup

// What of a threadgroup a release fence of `thread` covers: what was done before it by the thread itself and, after
// barriers, by others. The same three numbers tell who acquired something.
typedef struct { uint32_t tick, epoch, thread, simd_epoch; } Known;
typedef struct { Known known, by; } Fresh;  // acquired since the last barrier

typedef struct {
  uint32_t group, site, thread, tick, epoch, simd_epoch;
} Handed;  // an access; group: index + 1, 0 never
typedef struct {
  Handed accesses[CATEGORIES][2];
  uint32_t reported;
} HandedCell;  // the latest of two threadgroups

struct Fences {
  uint32_t tick;  // release fences so far
  uint32_t groups;
  uint64_t present;                   // the threadgroup that runs, + 1
  uint8_t released[MAX_THREADS];      // its threads that have passed a release fence
  Known *observed, *effective, *own;  // by threadgroup: read by atomics; acquired before a barrier; released
  Fresh* fresh;
  HandedCell* cells[MAX_BUFFERS];  // by root
  Known** published[MAX_BUFFERS];  // by root and cell: what the atomic variable there hands over
  uint64_t cell_count[MAX_BUFFERS];
};

static void* reserve(uint64_t bytes) {
  void* memory = mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

int metal_fences_open(Launch* l) {
  struct Fences* f = l->fences = calloc(1, sizeof *f);
  if (!f) return 1;
  f->groups = l->group_count;
  f->observed = calloc(3ull * f->groups, sizeof *f->observed);
  f->fresh = calloc(f->groups, sizeof *f->fresh);
  if (!f->observed || !f->fresh) return 1;
  f->effective = f->observed + f->groups;
  f->own = f->effective + f->groups;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    if (l->root[i] != i || !l->writable[i]) continue;
    f->cell_count[i] = cells(l->request, memory_bytes(l, i));
    f->cells[i] = reserve(f->cell_count[i] * sizeof(HandedCell));
    f->published[i] = reserve(f->cell_count[i] * sizeof(Known*));
    if (!f->cells[i] || !f->published[i]) return 1;
  }
  return 0;
}

void metal_fences_close(Launch* l) {
  struct Fences* f = l->fences;
  for (int i = 0; f && i < MAX_BUFFERS; i++) {
    for (uint64_t j = 0; f->published[i] && j < f->cell_count[i]; j++) free(f->published[i][j]);
    if (f->cells[i]) munmap(f->cells[i], f->cell_count[i] * sizeof(HandedCell) + 1);
    if (f->published[i]) munmap(f->published[i], f->cell_count[i] * sizeof(Known*) + 1);
  }
  if (f) free(f->observed), free(f->fresh);
  free(f);
  l->fences = NULL;
}

static struct Fences* fences_of(Worker* w) {
  struct Fences* f = w->launch->fences;
  if (f->present != w->group + 1) {
    f->present = w->group + 1;
    memset(f->released, 0, sizeof f->released);
    memset(f->observed, 0, f->groups * sizeof *f->observed);
    memset(f->effective, 0, f->groups * sizeof *f->effective);
    memset(f->fresh, 0, f->groups * sizeof *f->fresh);
  }
  return f;
}

static void join(Known* to, Known from) {
  if (!from.tick || to->tick == from.tick) return;
  Known older = to->tick < from.tick ? *to : from;
  if (to->tick < from.tick) *to = from;
  if (older.tick && older.epoch == to->epoch && older.thread != to->thread) to->thread = MANY;
}

static int is_by(const Known* by, uint32_t thread, uint32_t epoch, uint32_t simd_epoch, int before) {
  if (by->thread == MANY || by->thread == thread || (before ? epoch < by->epoch : epoch > by->epoch)) return 1;
  return by->thread / LANES == thread / LANES && (before ? simd_epoch < by->simd_epoch : simd_epoch > by->simd_epoch);
}

static int covers(const Known* known, const Handed* access) {
  return access->tick < known->tick && is_by(known, access->thread, access->epoch, access->simd_epoch, 1);
}

// What the present thread's threadgroup has acquired of another before a barrier joins what all its threads know.
static Fresh* settle(struct Fences* f, uint32_t group, uint32_t epoch) {
  Fresh* fresh = &f->fresh[group];
  if (fresh->known.tick && fresh->by.epoch < epoch) {
    join(&f->effective[group], fresh->known);
    memset(fresh, 0, sizeof *fresh);
  }
  return fresh;
}

static int is_ordered(struct Fences* f, const Handed* earlier, const Handed* now) {
  uint32_t group = earlier->group - 1;
  const Fresh* fresh = settle(f, group, now->epoch);
  if (covers(&f->effective[group], earlier)) return 1;
  return covers(&fresh->known, earlier) && is_by(&fresh->by, now->thread, now->epoch, now->simd_epoch, 0);
}

void metal_fence(uint32_t flags, uint32_t order, uint32_t scope) {
  Thread* t = metal_current;
  Worker* w = t->worker;
  if (!w->launch->fences || !(flags & BARRIER_DEVICE) || scope < SCOPE_DEVICE) return;
  struct Fences* f = fences_of(w);
  Known here = {
      .epoch = w->device_epoch, .thread = t->context.thread_index, .simd_epoch = t->simdgroup->barrier_epoch[0]};
  if (order >= RELEASE) {
    here.tick = ++f->tick;
    f->released[here.thread] = 1;
    join(&f->own[w->group], here);
  }
  for (uint32_t group = 0; order != RELAXED && order != RELEASE && group < f->groups; group++) {
    if (!f->observed[group].tick) continue;
    Fresh* fresh = settle(f, group, here.epoch);
    if (f->observed[group].tick <= f->effective[group].tick) continue;
    fresh->by.thread = fresh->known.tick && fresh->by.thread != here.thread ? MANY : here.thread;
    fresh->by.epoch = here.epoch;
    fresh->by.simd_epoch = here.simd_epoch;
    join(&fresh->known, f->observed[group]);
  }
}

// An atomic operation on the variable at a cell: reads what others handed over there, and hands over.
static void exchange(Worker* w, struct Fences* f, Known** variable, int kind, uint32_t thread) {
  for (uint32_t i = 0; kind & READS && *variable && i < f->groups; i++) join(&f->observed[i], (*variable)[i]);
  if (!(kind & WRITES)) return;
  if (!(kind & READS) && *variable) memset(*variable, 0, f->groups * sizeof **variable);
  if (!f->released[thread]) return;
  if (!*variable && !(*variable = calloc(f->groups, sizeof **variable)))
    metal_fail(w, "out of memory for what atomic variables hand over");
  for (uint32_t i = 0; i < f->groups; i++) {
    join(&(*variable)[i], f->effective[i]);
    join(&(*variable)[i], f->fresh[i].known);
  }
  join(&(*variable)[w->group], f->own[w->group]);
}

static void keep(Handed pair[2], Handed now) {
  int same = pair[1].group == now.group;
  if (pair[0].group && pair[0].group != now.group && !same) pair[1] = pair[0];
  pair[same] = now;
}

// The earlier access that this one races with, or NULL. both: set when both write.
static const Handed* conflict(struct Fences* f, const HandedCell* cell, int kind, const Handed* now, int* both) {
  for (int category = 0; category < CATEGORIES; category++) {
    int writes = category == PLAIN_WRITE || category == ATOMIC_WRITE, atomic = category >= ATOMIC_WRITE;
    if ((atomic && kind & ATOMIC) || !(writes || kind & WRITES)) continue;
    *both = writes && kind & WRITES;
    for (int i = 0; i < 2; i++) {
      const Handed* earlier = &cell->accesses[category][i];
      if (earlier->group && earlier->group != now->group && !is_ordered(f, earlier, now)) return earlier;
    }
  }
  return NULL;
}

void metal_fences_access(Worker* w, int root, uint64_t at, uint32_t size, int kind, Record record, Place place) {
  struct Fences* f = fences_of(w);
  uint32_t granule = w->launch->request->granule;
  Handed now = {.group = (uint32_t)w->group + 1,
                .site = record.site,
                .thread = record.thread,
                .tick = f->tick,
                .epoch = record.epoch,
                .simd_epoch = record.simd_epoch};
  int category = (kind & ATOMIC ? ATOMIC_WRITE : PLAIN_WRITE) + !(kind & WRITES);
  if (kind & ATOMIC) exchange(w, f, &f->published[root][at / granule], kind, record.thread);
  for (uint64_t i = at / granule; i <= (at + size - 1) / granule; i++) {
    HandedCell* cell = &f->cells[root][i];
    int both = 0;
    const Handed* other = cell->reported ? NULL : conflict(f, cell, kind, &now, &both);
    if (other) {
      cell->reported = 1;
      metal_report(
          w->launch, w,
          (Finding){.kind = both ? GROUPS_WRITE_WRITE : GROUPS_READ_WRITE,
                    .buffer = place.buffer,
                    .offset = place.offset + (i * granule > at ? i * granule - at : 0),
                    .size = granule,
                    .count = 1,
                    .group = other->group - 1,
                    .other_group = w->group,
                    .thread = other->thread,
                    .other_thread = now.thread,
                    .site = other->site,
                    .other_site = now.site});
    }
    keep(cell->accesses[category], now);
  }
}
