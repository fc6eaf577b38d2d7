// Counting launches: how often each block of the kernel ran, and what each memory instruction of a SIMD group touched.
// Instrumented code (instrument.py) counts its blocks in the thread's own counters and logs its accesses. Where the lanes of
// a SIMD group meet, the k-th accesses of one instruction by its lanes are one access of the SIMD group.
#define _GNU_SOURCE
#include "runtime.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { WORDS = LINE_BYTES / 4 };
enum { SITE_SHIFT = 48 };  // a logged access is its address and, above, the instruction's number
enum { MAX_LINES = 8 * LANES };

typedef struct {
  uint64_t* entries;
  uint32_t used, room;
} Log;

struct WorkerCounters {
  uint32_t* blocks;  // executions [thread][block]
  Log logs[MAX_THREADS];
  uint64_t* row;  // of the threadgroup that runs
  uint64_t totals[SPACES + MAX_BUFFERS][TOTALS];
  uint64_t accesses[SPACES][2][WIDTHS];
  uint32_t* lines[MAX_BUFFERS];   // the last threadgroup of this worker that touched a line
  uint32_t groups;                // threadgroups that this worker began
  uint32_t *most, *seen, *start;  // per site, for SIMD groups whose lanes went different ways
  uint64_t* table;
  uint64_t table_room;
};

// The lines that one access touches, with a bit for every byte.
typedef struct {
  uint32_t count;
  uint64_t line[MAX_LINES];
  unsigned __int128 bytes[MAX_LINES];
} Touched;

typedef struct {
  int space, buffer;
  uint64_t offset;
} Place;

static void* reserve(uint64_t bytes) {
  void* memory = mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

// An access that begins in the last line may end in the next.
static uint64_t line_count(const Region* r) { return (r->high - r->low) / LINE_BYTES + 2; }

int metal_counters_open(Worker* w) {
  const Counters* c = w->launch->request->counters;
  struct WorkerCounters* own = w->counters = reserve(sizeof *own);
  if (!own) return 1;
  own->blocks = reserve((uint64_t)MAX_THREADS * c->block_count * sizeof *own->blocks);
  own->most = reserve(3ull * c->site_count * sizeof *own->most);
  if (!own->blocks || !own->most) return 1;
  own->seen = own->most + c->site_count;
  own->start = own->seen + c->site_count;
  for (int i = 0; i < MAX_BUFFERS; i++) {
    own->lines[i] = reserve(line_count(&w->launch->request->buffers[i]) * sizeof *own->lines[i]);
    if (!own->lines[i]) return 1;
  }
  return 0;
}

void metal_counters_close(Worker* w) {
  Counters* c = w->launch->request->counters;
  struct WorkerCounters* own = w->counters;
  for (int i = 0; i < SPACES + MAX_BUFFERS; i++)
    for (int j = 0; j < TOTALS; j++) c->totals[i][j] += own->totals[i][j];
  for (int i = 0; i < SPACES * 2 * WIDTHS; i++) (&c->accesses[0][0][0])[i] += (&own->accesses[0][0][0])[i];
  for (int i = 0; i < MAX_THREADS; i++) free(own->logs[i].entries);
  for (int i = 0; i < MAX_BUFFERS; i++)
    munmap(own->lines[i], line_count(&w->launch->request->buffers[i]) * sizeof *own->lines[i] + 1);
  munmap(own->blocks, (uint64_t)MAX_THREADS * c->block_count * sizeof *own->blocks + 1);
  munmap(own->most, 3ull * c->site_count * sizeof *own->most + 1);
  free(own->table);
  munmap(own, sizeof *own + 1);
  w->counters = NULL;
}

// Called once by every thread of an instrumented kernel.
uint32_t* metal_block_counters(void) {
  Thread* t = metal_current;
  return t->worker->counters->blocks +
         (uint64_t)t->context.thread_index * t->worker->launch->request->counters->block_count;
}

void metal_log_access(const void* address, uint32_t site) {
  Thread* t = metal_current;
  Log* log = &t->worker->counters->logs[t->context.thread_index];
  if (log->used == log->room) {
    uint64_t room = log->room ? 2ull * log->room : 256;
    uint64_t* entries = room <= UINT32_MAX ? realloc(log->entries, room * sizeof *entries) : NULL;
    if (!entries) metal_fail(t->worker, "out of memory for the accesses between two collectives");
    log->entries = entries;
    log->room = room;
  }
  log->entries[log->used++] = (uint64_t)address | (uint64_t)site << SITE_SHIFT;
}

static Place locate(Worker* w, uint64_t address) {
  const Request* q = w->launch->request;
  if (address - (uint64_t)w->arena < ARENA_BYTES) return (Place){SPACE_THREADGROUP, -1, address - (uint64_t)w->arena};
  if (address - (uint64_t)w->stacks < (uint64_t)STACK_BYTES * MAX_THREADS) return (Place){SPACE_PRIVATE, -1, address};
  for (int i = 0; i < MAX_BUFFERS; i++)
    if (address - q->buffers[i].low < q->buffers[i].high - q->buffers[i].low)
      return (Place){q->counters->constant[i] ? SPACE_CONSTANT : SPACE_DEVICE, i, address - q->buffers[i].low};
  return (Place){SPACE_CONSTANT, -1, address};  // constants of the program
}

// limit: bytes of the memory, so that an access out of bounds ends there.
static void touch(Touched* touched, uint64_t offset, uint32_t size, uint64_t limit) {
  if (size > limit - offset) size = limit - offset;
  while (size) {
    uint64_t line = offset / LINE_BYTES;
    uint32_t at = offset % LINE_BYTES, part = LINE_BYTES - at < size ? LINE_BYTES - at : size, i = touched->count;
    while (i && touched->line[i - 1] != line) i--;
    if (!i) {
      if (touched->count == MAX_LINES) return;
      i = ++touched->count;
      touched->line[i - 1] = line;
      touched->bytes[i - 1] = 0;
    }
    touched->bytes[i - 1] |= (part == LINE_BYTES ? ~(unsigned __int128)0 : ((unsigned __int128)1 << part) - 1) << at;
    offset += part;
    size -= part;
  }
}

static uint32_t ones(unsigned __int128 bits) {
  return __builtin_popcountll((uint64_t)bits) + __builtin_popcountll((uint64_t)(bits >> 64));
}

// Turns of the banks: the largest number of different words that lie in one of them.
static uint32_t bank_turns(const Touched* touched, uint32_t* words) {
  uint8_t turns[WORDS] = {0};
  uint32_t most = 0;
  *words = 0;
  for (uint32_t i = 0; i < touched->count; i++)
    for (uint32_t word = 0; word < WORDS; word++) {
      if (!(touched->bytes[i] >> (4 * word) & 15)) continue;
      ++*words;
      if (++turns[word] > most) most = turns[word];
    }
  return most;
}

// Marks the bytes of a buffer that were touched; returns the lines that this threadgroup had not touched before.
static uint32_t mark(Worker* w, int buffer, int write, const Touched* touched) {
  struct WorkerCounters* own = w->counters;
  uint8_t* bitmap = w->launch->request->counters->touched[buffer][write];
  uint32_t fresh = 0;
  for (uint32_t i = 0; i < touched->count; i++) {
    if (own->lines[buffer][touched->line[i]] != own->groups) {
      own->lines[buffer][touched->line[i]] = own->groups;
      fresh++;
    }
    uint64_t* half = (uint64_t*)(bitmap + touched->line[i] * (LINE_BYTES / 8));
    uint64_t low = (uint64_t)touched->bytes[i], high = (uint64_t)(touched->bytes[i] >> 64);
    if (low & ~__atomic_load_n(half, __ATOMIC_RELAXED)) __atomic_fetch_or(half, low, __ATOMIC_RELAXED);
    if (high & ~__atomic_load_n(half + 1, __ATOMIC_RELAXED)) __atomic_fetch_or(half + 1, high, __ATOMIC_RELAXED);
  }
  return fresh;
}

static void add(uint64_t* totals, int write, uint64_t requested, const Touched* touched) {
  totals[TOTAL_INSTRUCTIONS]++;
  totals[write ? TOTAL_WRITTEN : TOTAL_READ] += requested;
  totals[TOTAL_LINES] += touched->count;
}

// One access of a SIMD group to one buffer (or to one of the other memories).
static void account(Worker* w, Place place, int write, uint64_t requested, const Touched* touched) {
  struct WorkerCounters* own = w->counters;
  uint64_t* row = own->row + w->launch->request->counters->class_count;
  uint64_t* totals = own->totals[place.buffer >= 0 ? SPACES + place.buffer : place.space];
  uint32_t bytes = 0;
  for (uint32_t i = 0; i < touched->count; i++) bytes += ones(touched->bytes[i]);
  add(totals, write, requested, touched);
  if (place.space == SPACE_THREADGROUP) {
    uint32_t words, turns = bank_turns(touched, &words), clocks = (bytes + 63) / 64;
    totals[TOTAL_CONFLICTS] += turns - (words + WORDS - 1) / WORDS;
    row[ROW_THREADGROUP_CLOCKS] += turns > clocks ? turns : clocks;
  } else if (place.space == SPACE_DEVICE) {
    uint32_t clocks = (bytes + 63) / 64;
    row[ROW_DEVICE_CLOCKS] += touched->count > clocks ? touched->count : clocks;
    row[ROW_DEVICE_LINES] += mark(w, place.buffer, write, touched);
  } else if (place.buffer >= 0) {
    mark(w, place.buffer, write, touched);
  }
}

// The same memory instruction of all lanes of a SIMD group; absent lanes have address 0.
static void simdgroup_access(Worker* w, uint32_t site, const uint64_t* addresses) {
  const Counters* c = w->launch->request->counters;
  uint32_t size = c->site_bytes[site], write = c->site_kinds[site] & 1;
  Touched touched;
  uint32_t left = UINT32_MAX, width = 0;
  for (uint32_t lane = 0; lane < LANES; lane++)
    if (!addresses[lane]) left &= ~(1u << lane);
  while (width < WIDTHS - 1 && 1u << width < size) width++;
  while (left) {  // usually once; lanes may hold pointers into several buffers
    Place first = locate(w, addresses[__builtin_ctz(left)]);
    uint32_t lanes = 0;
    touched.count = 0;
    for (uint32_t rest = left; rest; rest &= rest - 1) {
      uint32_t lane = __builtin_ctz(rest);
      Place place = locate(w, addresses[lane]);
      if (place.space != first.space || place.buffer != first.buffer) continue;
      left &= ~(1u << lane);
      lanes++;
      const Region* r = &w->launch->request->buffers[place.buffer < 0 ? 0 : place.buffer];
      touch(&touched, place.offset, size, place.buffer < 0 ? UINT64_MAX : r->high - r->low);
    }
    account(w, first, write, (uint64_t)lanes * size, &touched);
    w->counters->accesses[first.space][write][width]++;
  }
}

// Lanes that did the same things, one after the other: returns 0 if they did not.
static int flush_together(Worker* w, Log* logs, uint32_t lanes) {
  uint32_t count = 0, present = 0, first = 0;
  for (uint32_t lane = 0; lane < lanes; lane++) {
    if (!logs[lane].used) continue;
    if (!present++) first = lane, count = logs[lane].used;
    if (logs[lane].used != count) return 0;
    for (uint32_t i = 0; i < count; i++)
      if ((logs[lane].entries[i] ^ logs[first].entries[i]) >> SITE_SHIFT) return 0;
  }
  for (uint32_t i = 0; i < count; i++) {
    uint64_t addresses[LANES] = {0};
    for (uint32_t lane = 0; lane < lanes; lane++)
      if (logs[lane].used) addresses[lane] = logs[lane].entries[i] << (64 - SITE_SHIFT) >> (64 - SITE_SHIFT);
    simdgroup_access(w, logs[first].entries[i] >> SITE_SHIFT, addresses);
  }
  return 1;
}

// Lanes that went different ways: the k-th accesses of a site belong together.
static void flush_apart(Worker* w, Log* logs, uint32_t lanes) {
  struct WorkerCounters* own = w->counters;
  uint32_t sites = w->launch->request->counters->site_count;
  memset(own->most, 0, sites * sizeof *own->most);
  for (uint32_t lane = 0; lane < lanes; lane++) {
    memset(own->seen, 0, sites * sizeof *own->seen);
    for (uint32_t i = 0; i < logs[lane].used; i++) {
      uint32_t site = logs[lane].entries[i] >> SITE_SHIFT;
      if (++own->seen[site] > own->most[site]) own->most[site] = own->seen[site];
    }
  }
  uint64_t rows = 0;
  for (uint32_t site = 0; site < sites; site++) own->start[site] = rows, rows += own->most[site];
  if (rows * LANES > own->table_room) {
    free(own->table);
    own->table_room = 0;
    own->table = malloc(rows * LANES * sizeof *own->table);
    if (!own->table) metal_fail(w, "out of memory for the accesses between two collectives");
    own->table_room = rows * LANES;
  }
  memset(own->table, 0, rows * LANES * sizeof *own->table);
  for (uint32_t lane = 0; lane < lanes; lane++) {
    memset(own->seen, 0, sites * sizeof *own->seen);
    for (uint32_t i = 0; i < logs[lane].used; i++) {
      uint64_t entry = logs[lane].entries[i];
      uint32_t site = entry >> SITE_SHIFT;
      uint64_t row = own->start[site] + own->seen[site]++;
      own->table[row * LANES + lane] = entry << (64 - SITE_SHIFT) >> (64 - SITE_SHIFT);
    }
  }
  for (uint32_t site = 0; site < sites; site++)
    for (uint32_t k = 0; k < own->most[site]; k++)
      simdgroup_access(w, site, own->table + (own->start[site] + (uint64_t)k) * LANES);
}

void metal_counters_meet(Simdgroup* s) {
  Worker* w = s->threads[0].worker;
  uint32_t index = s - w->simdgroups, rest = w->thread_count - index * LANES, lanes = rest < LANES ? rest : LANES;
  Log* logs = &w->counters->logs[index * LANES];
  if (!flush_together(w, logs, lanes)) flush_apart(w, logs, lanes);
  for (uint32_t lane = 0; lane < lanes; lane++) logs[lane].used = 0;
}

void metal_counters_begin(Worker* w) {
  const Counters* c = w->launch->request->counters;
  struct WorkerCounters* own = w->counters;
  memset(own->blocks, 0, (uint64_t)w->thread_count * c->block_count * sizeof *own->blocks);
  own->row = c->rows + w->group * (c->class_count + ROW_FIELDS);
  own->groups++;
}

// A SIMD group executes a block as often as the lane that does it most often.
void metal_counters_end(Worker* w) {
  const Counters* c = w->launch->request->counters;
  struct WorkerCounters* own = w->counters;
  for (uint32_t i = 0; i < w->simdgroup_count; i++) metal_counters_meet(&w->simdgroups[i]);
  for (uint32_t first = 0; first < w->thread_count; first += LANES)
    for (uint32_t block = 0; block < c->block_count; block++) {
      uint32_t most = 0, end = first + LANES < w->thread_count ? first + LANES : w->thread_count;
      for (uint32_t thread = first; thread < end; thread++) {
        uint32_t executed = own->blocks[(uint64_t)thread * c->block_count + block];
        if (executed > most) most = executed;
      }
      for (uint32_t i = 0; most && i < c->class_count; i++)
        own->row[i] += (uint64_t)most * c->weights[(uint64_t)block * c->class_count + i];
    }
}

// Bytes and lines of a buffer that have a bit in its bitmap.
void metal_count_touched(const uint8_t* bitmap, uint64_t lines, uint64_t* bytes, uint64_t* touched_lines) {
  *bytes = *touched_lines = 0;
  for (uint64_t i = 0; i < lines; i++) {
    unsigned __int128 line;
    memcpy(&line, bitmap + i * sizeof line, sizeof line);
    *bytes += ones(line);
    *touched_lines += line != 0;
  }
}
