// One launch: workers take threadgroups in order, one at a time; a failed threadgroup ends the launch, not the process.
#define _GNU_SOURCE
#include "runtime.h"

#include <dlfcn.h>
#include <link.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

static pthread_mutex_t pool_lock = PTHREAD_MUTEX_INITIALIZER;
static Worker* pool;

static void* reserve(size_t bytes) {
  void* memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static Worker* take_worker(void) {
  pthread_mutex_lock(&pool_lock);
  Worker* w = pool;
  if (w) pool = w->next;
  pthread_mutex_unlock(&pool_lock);
  if (w) return w;
  w = reserve(sizeof *w);
  if (!w) return NULL;
  w->stacks = reserve((size_t)STACK_BYTES * MAX_THREADS);
  w->plain_arena = reserve(ARENA_BYTES + 2 * ARENA_GUARD);
  w->signal_stack = reserve(65536);
  w->unit = metal_matrix_unit_open();
  if (!w->stacks || !w->plain_arena || !w->signal_stack || !w->unit) return NULL;
  memset(w->plain_arena, 0xFF, ARENA_BYTES + 2 * ARENA_GUARD);
  w->plain_arena += ARENA_GUARD;
  return w;
}

static void give_worker(Worker* w) {
  pthread_mutex_lock(&pool_lock);
  w->next = pool;
  pool = w;
  pthread_mutex_unlock(&pool_lock);
}

static void place_threadgroup_arguments(Worker* w) {
  const Request* q = w->launch->request;
  uint64_t offset = (q->static_bytes + 15) & ~15ull;
  for (uint32_t i = 0; i < MAX_BUFFERS; i++) {
    uint32_t slot = q->variable_count + i;
    if (q->check) offset = slot < q->slot_count ? ((uint64_t)slot << SLOT_SHIFT) + q->slots[slot].alignment : 0;
    w->threadgroup_arguments[i] = (uint64_t)w->arena + offset;
    offset += (q->dynamic_bytes[i] + 15) & ~15ull;
  }
}

static void guard_stacks(Worker* w, uint32_t count) {
  for (; w->guarded_stacks < count; w->guarded_stacks++)
    mprotect(w->stacks + (size_t)STACK_BYTES * w->guarded_stacks, 4096, PROT_NONE);
}

// sigsetjmp may return twice, so what follows it must not keep changed locals: hence a function of its own.
static void run_guarded(Worker* w) {
  switch (sigsetjmp(w->recover, 1)) {
    case 0: metal_run_threadgroup(w); break;
    case 2:
      if (!sigsetjmp(w->recover, 1)) metal_fail_fault(w);
      break;
  }
  metal_current = NULL;
}

static void* work(void* argument) {
  Worker* w = argument;
  Launch* launch = w->launch;
  stack_t signal_stack = {.ss_sp = w->signal_stack, .ss_size = 65536};
  sigaltstack(&signal_stack, NULL);
  guard_stacks(w, launch->request->threads[0] * launch->request->threads[1] * launch->request->threads[2]);
  place_threadgroup_arguments(w);
  while (!atomic_load(&launch->stop)) {
    w->ordinal = atomic_fetch_add(&launch->next, 1);
    if (w->ordinal >= launch->group_count) break;
    w->group = w->ordinal;
    if (launch->request->order == 1) w->group = launch->group_count - 1 - w->ordinal;
    if (launch->permutation) w->group = launch->permutation[w->ordinal];
    run_guarded(w);
  }
  return NULL;
}

static uint32_t* permute(uint64_t count, uint64_t seed) {
  uint32_t* order = malloc(count * sizeof *order);
  if (!order) return NULL;
  for (uint64_t i = 0; i < count; i++) order[i] = i;
  uint64_t state = seed + 0x9E3779B97F4A7C15u;
  for (uint64_t i = count; i > 1; i--) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    uint64_t j = (state >> 33) % i;
    uint32_t swap = order[i - 1];
    order[i - 1] = order[j];
    order[j] = swap;
  }
  return order;
}

static int find_code(struct dl_phdr_info* info, size_t size, void* data) {
  Launch* launch = data;
  uintptr_t entry = (uintptr_t)launch->request->entry, high = 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr)* part = &info->dlpi_phdr[i];
    uintptr_t low = info->dlpi_addr + part->p_vaddr;
    if (part->p_type != PT_LOAD) continue;
    if (part->p_vaddr + part->p_memsz > high) high = part->p_vaddr + part->p_memsz;
    if (part->p_flags & PF_X && entry - low < part->p_memsz)
      launch->text_low = low, launch->text_high = low + part->p_memsz;
  }
  if (entry < info->dlpi_addr || entry >= info->dlpi_addr + high) return 0;
  launch->code_low = launch->request->code = info->dlpi_addr;
  launch->code_high = info->dlpi_addr + high;
  return 1;
}

static void bind(Launch* launch) {
  for (int i = 0; i < MAX_BUFFERS; i++) {
    uint64_t address = launch->request->buffers[i].address;
    launch->addresses[i] = address ? address : metal_unbound_address(i);
  }
}

static int start_workers(Launch* launch, Worker** workers, pthread_t* handles) {
  Request* request = launch->request;
  int count = 0;
  for (; count < (int)request->workers; count++) {
    Worker* w = take_worker();
    if (!w) break;
    w->launch = launch;
    w->barriers = w->products = w->unit_products = w->collectives = 0;
    w->counters = NULL;
    w->arena = w->plain_arena;
    if ((request->check && metal_shadow_open(w)) || (request->counters && metal_counters_open(w)) ||
        pthread_create(&handles[count], NULL, work, w)) {
      give_worker(w);
      break;
    }
    workers[count] = w;
  }
  return count;
}

typedef struct {
  uint64_t ordinal;
  double since;
} Progress;

static double seconds(const struct timespec* t) { return t->tv_sec + t->tv_nsec * 1e-9; }

// Stops a worker whose threadgroup has had its share of processor time; time spent waiting for a core does not count.
static void watch(Launch* launch, Worker* w, pthread_t handle, Progress* seen) {
  clockid_t clock;
  struct timespec now;
  if (pthread_getcpuclockid(handle, &clock) || clock_gettime(clock, &now)) return;
  if (seen->ordinal != w->ordinal) {
    seen->ordinal = w->ordinal;
    seen->since = seconds(&now);
  } else if (seconds(&now) - seen->since > launch->request->timeout) {
    pthread_kill(handle, STOP_SIGNAL);
  }
}

static void join_workers(Launch* launch, Worker** workers, pthread_t* handles, int count) {
  Progress seen[256] = {0};
  double limit = launch->request->timeout;
  for (int i = 0; i < count; i++) {
    if (limit <= 0) {
      pthread_join(handles[i], NULL);
      continue;
    }
    for (;;) {
      struct timespec until;
      clock_gettime(CLOCK_REALTIME, &until);
      until.tv_nsec += limit < 1 ? 20000000 : 100000000;
      if (until.tv_nsec >= 1000000000) until.tv_nsec -= 1000000000, until.tv_sec++;
      if (!pthread_timedjoin_np(handles[i], NULL, &until)) break;
      for (int j = i; j < count; j++) watch(launch, workers[j], handles[j], &seen[j]);
    }
  }
}

static void finish_worker(Request* request, Worker* w) {
  request->barriers += w->barriers;
  request->products += w->products;
  request->unit_products += w->unit_products;
  request->collectives += w->collectives;
  if (request->check) metal_shadow_close(w);
  if (request->counters) metal_counters_close(w);
  give_worker(w);
}

// Whether what was found may depend on which threadgroups ran at the same time.
static int is_unsettled(const Request* q) {
  if (q->failed) return !q->stopped;
  for (uint32_t i = 0; i < q->finding_count; i++)
    if (q->findings[i].kind == GROUPS_WRITE_WRITE || q->findings[i].kind == GROUPS_READ_WRITE) return 1;
  return 0;
}

static int run(Launch* launch, int again) {
  Request* request = launch->request;
  request->barriers = request->products = request->unit_products = request->collectives = 0;
  request->finding_count = request->failed = request->stopped = 0;
  launch->failed_ordinal = UINT64_MAX;
  launch->next = launch->stop = 0;
  if (request->check && metal_copies_open(launch)) return 1;
  if (request->check && request->fences && metal_fences_open(launch)) return 1;
  Worker* workers[256];
  pthread_t handles[256];
  metal_faults_acquire();
  int count = start_workers(launch, workers, handles);
  join_workers(launch, workers, handles, count);
  metal_faults_release();
  if (request->check && !launch->fences) metal_find_races_between_groups(launch, workers, count);
  metal_fences_close(launch);
  for (int i = 0; i < count; i++) finish_worker(request, workers[i]);
  int repeat = again && request->check && count > 1 && is_unsettled(request);
  if (request->check) metal_copies_close(launch, !repeat);
  if (!repeat) return count == 0;
  request->workers = 1;
  return run(launch, 0);
}

// Returns 0 when the launch ran (or failed with request->failed set), 1 when memory or threads could not be had. A checking
// launch whose findings may depend on the number of workers runs again with one, from the same buffers.
int metal_launch(Request* request) {
  Launch launch = {.request = request, .lock = PTHREAD_MUTEX_INITIALIZER};
  launch.group_count = (uint64_t)request->grid[0] * request->grid[1] * request->grid[2];
  if (request->order == 2 && !(launch.permutation = permute(launch.group_count, request->seed))) return 1;
  dl_iterate_phdr(find_code, &launch);
  bind(&launch);
  int status = run(&launch, 1);
  free(launch.permutation);
  return status;
}
