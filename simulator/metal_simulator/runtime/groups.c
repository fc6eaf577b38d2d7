// Races between threadgroups of one dispatch: nothing orders them, so two plain accesses, one of them writing, suffice.
// Every worker keeps the two lowest threadgroups per cell and category; any two that race are among those of all workers.
#include "shadow.h"

static void keep_lowest(Access pair[2], Access now) {
  if (!now.group || pair[0].group == now.group || pair[1].group == now.group) return;
  if (!pair[0].group || now.group < pair[0].group) {
    pair[1] = pair[0];
    pair[0] = now;
  } else if (!pair[1].group || now.group < pair[1].group) {
    pair[1] = now;
  }
}

static void merge(Access pair[2], Worker** workers, int count, int category, int buffer, uint64_t cell) {
  pair[0].group = pair[1].group = 0;
  for (int i = 0; i < count; i++) {
    const Access* of_worker = &workers[i]->shadow->groups[category][buffer][2 * cell];
    keep_lowest(pair, of_worker[0]);
    keep_lowest(pair, of_worker[1]);
  }
}

// The lowest access of b by another threadgroup than one of a; 0 when there is none.
static int different(const Access a[2], const Access b[2], Access* first, Access* second) {
  for (int i = 0; i < 2; i++)
    for (int j = 0; j < 2; j++)
      if (a[i].group && b[j].group && a[i].group != b[j].group) return *first = a[i], *second = b[j], 1;
  return 0;
}

// The buffer, of those that share a memory, that a byte is named after.
static int named_after(const Launch* launch, int root, uint64_t address) {
  for (int i = 0; i < MAX_BUFFERS; i++) {
    const Region* r = &launch->request->buffers[i];
    if (launch->root[i] == root && address >= r->low && address < r->high) return i;
  }
  return root;
}

static void check_cell(Launch* launch, Worker** workers, int count, int root, uint64_t cell) {
  static const int racing[][2] = {
      {PLAIN_WRITE, PLAIN_WRITE},
      {PLAIN_WRITE, ATOMIC_WRITE},
      {PLAIN_WRITE, PLAIN_READ},
      {PLAIN_WRITE, ATOMIC_READ},
      {ATOMIC_WRITE, PLAIN_READ}};
  Access pairs[CATEGORIES][2], first, second;
  for (int c = 0; c < CATEGORIES; c++) merge(pairs[c], workers, count, c, root, cell);
  for (int i = 0; i < (int)(sizeof racing / sizeof *racing); i++) {
    if (!different(pairs[racing[i][0]], pairs[racing[i][1]], &first, &second)) continue;
    uint64_t address = launch->low[root] + cell * launch->request->granule;
    int buffer = named_after(launch, root, address);
    Finding found = {
        .kind = i < 2 ? GROUPS_WRITE_WRITE : GROUPS_READ_WRITE,
        .buffer = buffer,
        .size = launch->request->granule,
        .count = 1,
        .offset = (int64_t)(address - launch->request->buffers[buffer].address),
        .group = first.group - 1,
        .other_group = second.group - 1,
        .thread = first.thread,
        .other_thread = second.thread,
        .site = first.site,
        .other_site = second.site};
    metal_report(launch, NULL, found);
    return;
  }
}

void metal_find_races_between_groups(Launch* launch, Worker** workers, int count) {
  for (int i = 0; i < MAX_BUFFERS && launch->group_count > 1; i++) {
    if (launch->root[i] != i || !launch->writable[i]) continue;
    for (uint64_t cell = 0; cell * launch->request->granule < memory_bytes(launch, i); cell++)
      if (launch->written[i][cell]) check_cell(launch, workers, count, i, cell);
  }
}
