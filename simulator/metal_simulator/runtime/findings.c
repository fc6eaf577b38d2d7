// The table of findings: one entry per kind, buffer and places, sorted by them, so that it does not depend on who ran what.
#include "runtime.h"

#include <string.h>

static int compare(const Finding* a, const Finding* b) {
  if (a->kind != b->kind) return a->kind < b->kind ? -1 : 1;
  if (a->buffer != b->buffer) return a->buffer < b->buffer ? -1 : 1;
  if (a->site != b->site) return a->site < b->site ? -1 : 1;
  if (a->other_site != b->other_site) return a->other_site < b->other_site ? -1 : 1;
  return 0;
}

static uint32_t lower_bound(const Request* q, const Finding* found) {
  uint32_t low = 0, high = q->finding_count;
  while (low < high) {
    uint32_t middle = (low + high) / 2;
    if (compare(&q->findings[middle], found) < 0) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The example of an entry: the first threadgroup's, there the lowest bytes', whoever ran first.
static int is_better(const Finding* a, const Finding* b) {
  if (a->group != b->group) return a->group < b->group;
  if (a->offset != b->offset) return a->offset < b->offset;
  if (a->thread != b->thread) return a->thread < b->thread;
  return a->other_group != b->other_group ? a->other_group < b->other_group : a->other_thread < b->other_thread;
}

// When the table is full, its last entry goes: it would go in any order.
static void insert(Request* q, Finding found) {
  uint32_t at = lower_bound(q, &found);
  Finding* f = &q->findings[at];
  if (at < q->finding_count && !compare(f, &found)) {
    uint64_t count = f->count + found.count;
    if (is_better(&found, f)) *f = found;
    f->count = count;
    return;
  }
  if (at == MAX_FINDINGS) return;
  if (q->finding_count < MAX_FINDINGS) q->finding_count++;
  memmove(f + 1, f, (q->finding_count - 1 - at) * sizeof *f);
  *f = found;
}

// worker: who found it, NULL outside of the workers.
void metal_report(Launch* launch, Worker* worker, Finding found) {
  if (worker) worker->busy = 1;
  pthread_mutex_lock(&launch->lock);
  insert(launch->request, found);
  pthread_mutex_unlock(&launch->lock);
  if (worker) worker->busy = 0;
}
