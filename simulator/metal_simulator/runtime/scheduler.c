// Threads of one threadgroup: rendezvous of a SIMD group at collectives, of the group at barriers, and who runs next.
#include "runtime.h"
#include "switch.h"

#include <stdio.h>
#include <string.h>

static inline uint32_t runnable(const Simdgroup* s) { return s->live & ~(s->arrived | s->at_barrier); }

static Thread* next_in_simdgroup(Simdgroup* s, uint32_t lane) {
  uint32_t ready = runnable(s);
  if (!ready) return NULL;
  do lane = s->next[lane];
  while (!(ready >> lane & 1));
  return &s->threads[lane];
}

static Thread* next_in_group(Worker* w, const Simdgroup* s) {
  uint32_t rank = w->simdgroup_rank[s - w->simdgroups];
  for (uint32_t i = 1; i <= w->simdgroup_count; i++) {
    Simdgroup* candidate = &w->simdgroups[w->simdgroup_order[(rank + i) % w->simdgroup_count]];
    uint32_t ready = runnable(candidate);
    if (ready >> candidate->first & 1) return &candidate->threads[candidate->first];
    if (ready) return next_in_simdgroup(candidate, candidate->first);
  }
  return NULL;
}

static int describe_lanes(char* text, size_t room, uint32_t mask) {
  int used = 0;
  for (int low = 0; low < LANES; low++) {
    if (!(mask >> low & 1)) continue;
    int high = low;
    while (high + 1 < LANES && mask >> (high + 1) & 1) high++;
    used += snprintf(text + used, room - used, low == high ? "%s%d" : "%s%d-%d", used ? ", " : "", low, high);
    low = high;
    if (used > 80) break;
  }
  return used;
}

// Some SIMD group waits at a collective that can no longer complete, or at a barrier that others have left or never reach.
static _Noreturn void fail_stuck(Worker* w) {
  for (uint32_t i = 0; i < w->simdgroup_count; i++) {
    Simdgroup* s = &w->simdgroups[i];
    if (!s->arrived) continue;
    char here[128], there[128];
    describe_lanes(here, sizeof here, s->arrived);
    describe_lanes(there, sizeof there, s->at_barrier);
    w->sites[0] = s->site;
    w->sites[1] = w->barrier_site;
    metal_fail(w, "SIMD group %u diverged: lanes %s wait at %s while lanes %s wait at threadgroup_barrier", i, here,
               metal_operation_name(s->operation), there);
  }
  uint32_t left = 0, first = UINT32_MAX;
  for (uint32_t i = 0; i < w->thread_count; i++) {
    if (w->threads[i].simdgroup->live & w->threads[i].lane_bit) continue;
    left++;
    if (first == UINT32_MAX) first = i;
  }
  w->sites[0] = w->barrier_site;
  metal_fail(w, "deadlock at threadgroup_barrier: %u of %u threads wait, %u have left the kernel (thread %u first)",
             w->at_barrier, w->thread_count, left, first);
}

static inline void resume(void** save, Thread* thread) {
  metal_current = thread;
  metal_switch(save, thread->stack_pointer);
}

static void block(Thread* t) {
  Thread* next = next_in_simdgroup(t->simdgroup, t->lane);
  if (!next) next = next_in_group(t->worker, t->simdgroup);
  if (!next) fail_stuck(t->worker);
  resume(&t->stack_pointer, next);
}

static _Noreturn void fail_divergent(Thread* t, uint32_t operation, const void* site) {
  Simdgroup* s = t->simdgroup;
  char lanes[128];
  describe_lanes(lanes, sizeof lanes, s->arrived);
  const char* waiting = metal_operation_name(s->operation);
  t->worker->sites[0] = s->site;
  t->worker->sites[1] = site;
  metal_fail(t->worker, "SIMD group %ld diverged: lanes %s wait at %s while lane %u is at %s%s",
             (long)(s - t->worker->simdgroups), lanes, waiting, t->lane, s->operation == operation ? "another " : "",
             metal_operation_name(operation));
}

// Every live lane of the SIMD group meets here; the last one completes the operation for all and runs on.
static inline void rendezvous(Thread* t, uint32_t operation, const void* site) {
  Simdgroup* s = t->simdgroup;
  if (!s->arrived) {
    s->operation = operation;
    s->site = site;
  } else if (s->operation != operation || s->site != site) {
    fail_divergent(t, operation, site);
  }
  s->arrived |= t->lane_bit;
  if (s->arrived == s->live) {
    metal_complete(s);
    s->arrived = 0;
    return;
  }
  uint32_t lane = s->next[t->lane];
  if (runnable(s) >> lane & 1) resume(&t->stack_pointer, &s->threads[lane]);
  else block(t);
}

uint64_t metal_collective(uint32_t operation, uint64_t value, uint64_t fill, uint32_t parameter) {
  Thread* t = metal_current;
  Simdgroup* s = t->simdgroup;
  s->in[t->lane] = value;
  s->fill[t->lane] = fill;
  s->parameter[t->lane] = parameter;
  t->worker->collectives++;
  rendezvous(t, operation, __builtin_return_address(0));
  return s->out[t->lane];
}

typedef float Pair __attribute__((vector_size(8)));

Pair metal_multiply_accumulate(Pair a, Pair b, Pair c) {
  Thread* t = metal_current;
  Simdgroup* s = t->simdgroup;
  uint32_t element = t->element;
  *(Pair*)(s->a + element) = a;
  *(Pair*)(s->b + element) = b;
  *(Pair*)(s->c + element) = c;
  rendezvous(t, 0, __builtin_return_address(0));
  return *(Pair*)(s->d + element);
}

void metal_matrix_unit(uint32_t shape, uint32_t flags) {
  Thread* t = metal_current;
  t->simdgroup->parameter[t->lane] = shape;
  t->simdgroup->in[t->lane] = flags;
  rendezvous(t, MATRIX_UNIT, __builtin_return_address(0));
}

void metal_reduce_rows(uint32_t matrix, uint32_t operation, float identity) {
  Thread* t = metal_current;
  t->simdgroup->parameter[t->lane] = matrix;
  t->simdgroup->in[t->lane] = operation;
  memcpy(&t->simdgroup->fill[t->lane], &identity, sizeof identity);
  rendezvous(t, ROW_REDUCTION, __builtin_return_address(0));
}

void metal_threadgroup_barrier(uint32_t flags) {
  Thread* t = metal_current;
  Worker* w = t->worker;
  const void* site = __builtin_return_address(0);
  if (!w->at_barrier) {
    w->barrier_site = site;
    w->barrier_flags = flags;
  } else if (w->barrier_site != site) {
    w->sites[0] = w->barrier_site;
    w->sites[1] = site;
    metal_fail(
        w, "threads at different barriers: thread %u reached another threadgroup_barrier than the %u threads that wait",
        t->context.thread_index, w->at_barrier);
  }
  w->at_barrier++;
  if (w->at_barrier < w->thread_count) {
    t->simdgroup->at_barrier |= t->lane_bit;
    block(t);
    return;
  }
  for (uint32_t i = 0; i < w->simdgroup_count; i++) {
    w->simdgroups[i].at_barrier = 0;
    if (w->counters) metal_counters_meet(&w->simdgroups[i]);
  }
  w->at_barrier = 0;
  w->barriers++;
  if (flags & BARRIER_DEVICE) w->device_epoch++;
  if (flags & BARRIER_THREADGROUP) w->threadgroup_epoch++;
}

uint64_t metal_threadgroup_memory(void) { return (uint64_t)metal_current->worker->arena; }
const Context* metal_context(void) { return &metal_current->context; }
uint32_t metal_lane(void) { return metal_current->lane; }
uint32_t metal_matrix_element(void) { return metal_current->element; }

static void thread_main(void) {
  Thread* t = metal_current;
  Worker* w = t->worker;
  w->launch->request->entry(&t->context);
  Simdgroup* s = t->simdgroup;
  s->live &= ~t->lane_bit;
  w->finished++;
  if (s->live && s->arrived == s->live) {  // the lanes that remain are the active ones
    metal_complete(s);
    s->arrived = 0;
  }
  if (w->finished == w->thread_count) metal_switch(&t->stack_pointer, w->stack_pointer);
  block(t);
  __builtin_unreachable();
}

static uint32_t random_below(uint64_t* state, uint32_t bound) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((*state >> 33) % bound);
}

static void shuffle(uint8_t* order, uint32_t count, uint64_t* state) {
  for (uint32_t i = count; i > 1; i--) {
    uint32_t j = random_below(state, i);
    uint8_t swap = order[i - 1];
    order[i - 1] = order[j];
    order[j] = swap;
  }
}

static void arrange(uint8_t* order, uint32_t count, const Request* request, uint64_t* state) {
  for (uint32_t i = 0; i < count; i++) order[i] = request->order == 1 ? count - 1 - i : i;
  if (request->order == 2) shuffle(order, count, state);
}

static void start_simdgroup(Worker* w, uint32_t index, uint64_t* state) {
  Simdgroup* s = &w->simdgroups[index];
  uint32_t lanes = w->thread_count - index * LANES < LANES ? w->thread_count - index * LANES : LANES;
  uint8_t order[LANES];
  arrange(order, lanes, w->launch->request, state);
  for (uint32_t i = 0; i < lanes; i++) s->next[order[i]] = order[(i + 1) % lanes];
  s->first = order[0];
  s->threads = &w->threads[index * LANES];
  s->live = s->all = lanes == LANES ? UINT32_MAX : (1u << lanes) - 1;
  s->arrived = s->at_barrier = 0;
  s->barrier_epoch[0] = s->barrier_epoch[1] = 0;
}

static void start_thread(Worker* w, uint32_t index, const uint32_t* group, const uint32_t* size) {
  Thread* t = &w->threads[index];
  uint32_t lane = index % LANES, row = (lane / 4 & 4) + lane / 2 % 4, column = (lane / 4 & 2) * 2 + lane % 2 * 2;
  t->worker = w;
  t->simdgroup = &w->simdgroups[index / LANES];
  t->lane = lane;
  t->lane_bit = 1u << lane;
  t->element = row * 8 + column;
  t->met_nan = 0;
  Context* c = &t->context;
  *c = (Context){.buffers = (uintptr_t)w->launch->addresses,
                 .threadgroup_arguments = (uintptr_t)w->threadgroup_arguments,
                 .shape = (uintptr_t)w->shape,
                 .thread_index = index,
                 .lane = lane,
                 .simdgroup = index / LANES};
  c->position[0] = index % size[0];
  c->position[1] = index / size[0] % size[1];
  c->position[2] = index / (size[0] * size[1]);
  for (int i = 0; i < 3; i++) c->position_in_grid[i] = group[i] * size[i] + c->position[i];
  // Equal stacks would share cache sets: shift each by an odd number of lines.
  char* top = w->stacks + (size_t)STACK_BYTES * (index + 1) - (index % 31) * 1088 - 64;
  t->stack_pointer = new_stack(top, thread_main);
}

// Runs one threadgroup from start to end; does not return when it fails (metal_fail leaves through worker->recover).
void metal_run_threadgroup(Worker* w) {
  const Request* request = w->launch->request;
  const uint32_t *grid = request->grid, *size = request->threads;
  uint32_t group[3] = {w->group % grid[0], w->group / grid[0] % grid[1], w->group / ((uint64_t)grid[0] * grid[1])};
  w->thread_count = size[0] * size[1] * size[2];
  w->simdgroup_count = (w->thread_count + LANES - 1) / LANES;
  w->finished = w->at_barrier = 0;
  w->sites[0] = w->sites[1] = NULL;
  w->fault_signal = 0;
  for (int i = 0; i < 3; i++) w->shape[i] = group[i], w->shape[3 + i] = grid[i], w->shape[6 + i] = size[i];
  w->shape[9] = w->simdgroup_count;
  uint32_t epoch = w->device_epoch > w->threadgroup_epoch ? w->device_epoch : w->threadgroup_epoch;
  w->device_epoch = w->threadgroup_epoch = w->group_epoch = epoch + 1;
  uint64_t state = request->seed * 0x9E3779B97F4A7C15u + w->group;
  arrange(w->simdgroup_order, w->simdgroup_count, request, &state);
  for (uint32_t i = 0; i < w->simdgroup_count; i++) w->simdgroup_rank[w->simdgroup_order[i]] = i;
  for (uint32_t i = 0; i < w->simdgroup_count; i++) start_simdgroup(w, i, &state);
  for (uint32_t i = 0; i < w->thread_count; i++) start_thread(w, i, group, size);
  if (request->check) metal_shadow_reset(w);
  else memset(w->arena, 0xFF, ARENA_BYTES);
  if (w->counters) metal_counters_begin(w);
  Simdgroup* s = &w->simdgroups[w->simdgroup_order[0]];
  resume(&w->stack_pointer, &s->threads[s->first]);
  metal_current = NULL;
  if (w->counters) metal_counters_end(w);
}
