// The CPU runtime of the simulator: every GPU thread is a fibre, a worker (one per core) runs one threadgroup at a time.
#pragma once
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "request.h"

enum { MAX_SIMDGROUPS = MAX_THREADS / LANES, STACK_BYTES = 256 * 1024, ARENA_GUARD = 65536 };
enum { BARRIER_DEVICE = __METAL_MEM_DEVICE, BARRIER_THREADGROUP = __METAL_MEM_THREADGROUP };

typedef struct Worker Worker;
typedef struct Simdgroup Simdgroup;

typedef struct {
  void* stack_pointer;
  Worker* worker;
  Simdgroup* simdgroup;
  uint32_t lane, lane_bit;
  uint32_t element;  // first of this lane's two elements in a row-major 8x8 matrix
  uint32_t met_nan;  // its first NaN is reported; the others follow from it
  Context context;
} Thread;

struct Simdgroup {
  _Alignas(64) float a[64], b[64], c[64], d[64];  // operands and result of the matrix product, row-major
  uint64_t in[LANES], fill[LANES], out[LANES];
  uint32_t parameter[LANES];
  uint32_t live, arrived, at_barrier;  // lane masks: not finished, waiting at the collective, waiting at the barrier
  uint32_t all;                        // lanes the SIMD group started with
  uint32_t operation;
  uint32_t barrier_epoch[2];  // of device and of threadgroup memory
  const void* site;           // return address of the collective the arrived lanes wait at
  uint8_t next[LANES];
  uint8_t first;  // first lane in schedule order
  Thread* threads;
};

typedef struct Launch Launch;

struct Worker {
  Launch* launch;
  Thread threads[MAX_THREADS];
  Simdgroup simdgroups[MAX_SIMDGROUPS];
  uint8_t simdgroup_order[MAX_SIMDGROUPS], simdgroup_rank[MAX_SIMDGROUPS];
  uint32_t thread_count, simdgroup_count, finished, at_barrier, barrier_flags;
  const void* barrier_site;
  uint32_t device_epoch, threadgroup_epoch,
      group_epoch;          // advance at barriers; group_epoch is the value at the group's start
  uint64_t group, ordinal;  // linear threadgroup index; its place in the order of execution
  uint64_t barriers, products, unit_products, collectives;
  void* stack_pointer;      // of the worker itself, while its threads run
  sigjmp_buf recover;       // where a failed threadgroup is abandoned
  uintptr_t fault_address;  // set by the signal handler before it leaves through `recover`
  int fault_signal;
  volatile int busy;     // holds a lock: not to be abandoned now
  const void* sites[2];  // return addresses of the calls that metal_fail is about
  uint32_t guarded_stacks;
  char *stacks, *arena, *signal_stack;
  char* plain_arena;  // the arena of launches without the checker, which has slots instead
  uint64_t threadgroup_arguments[MAX_BUFFERS];
  uint32_t shape[12];
  struct MatrixUnit* unit;
  struct Shadow* shadow;            // checker state, only in checking launches
  struct WorkerCounters* counters;  // only in counting launches
  Worker* next;                     // free list
};

struct Launch {
  Request* request;
  uint64_t group_count;
  uint32_t* permutation;
  uint64_t addresses[MAX_BUFFERS];
  _Atomic uint64_t next;
  _Atomic int stop;
  uint64_t failed_ordinal;
  uintptr_t code_low, code_high;  // the kernel's shared object
  uintptr_t text_low, text_high;  // and its instructions
  char* region;                   // checking launches: copies of the buffers, far apart
  uint32_t slot_shift;            // log2 of the address space of each
  // Buffers that overlap are one memory: that of the lowest of them, their root. Indexed by root:
  uint8_t root[MAX_BUFFERS];
  uint64_t low[MAX_BUFFERS], high[MAX_BUFFERS];  // the bytes of all of them, from a multiple of 64 on
  uint8_t writable[MAX_BUFFERS];
  unsigned char* written[MAX_BUFFERS];  // a byte per granule
  struct Fences* fences;
  pthread_mutex_t lock;
};

extern __thread Thread* metal_current __attribute__((visibility("hidden")));

void metal_run_threadgroup(Worker* worker);
_Noreturn void metal_fail(Worker* worker, const char* format, ...) __attribute__((format(printf, 2, 3)));
void metal_complete(Simdgroup* simdgroup);
const char* metal_operation_name(uint32_t operation);
struct MatrixUnit* metal_matrix_unit_open(void);
void metal_multiply_tensors(Simdgroup* simdgroup);
void metal_reduce_tensor(Simdgroup* simdgroup);

enum { STOP_SIGNAL = SIGURG };  // ignored by default, so one that comes late does nothing
void metal_faults_acquire(void);
void metal_faults_release(void);
void metal_fail_fault(Worker* worker);
uint64_t metal_unbound_address(int buffer);

int metal_copies_open(Launch* launch);
void metal_copies_close(Launch* launch, int keep);
int metal_fences_open(Launch* launch);
void metal_fences_close(Launch* launch);
int metal_shadow_open(Worker* worker);
void metal_shadow_close(Worker* worker);
void metal_shadow_reset(Worker* worker);
enum {
  READS = 1,
  WRITES = 2,
  ATOMIC = 4,
  COPIES = 8,
  THREE = 16
};  // COPIES: of an object, padding included; THREE: of 3 or 4 elements
void metal_check_access(const void* address, uint32_t size, int kind, const void* site);
void metal_check_aligned(const void* address, uint32_t size, uint32_t alignment, const void* site);
void metal_check_products(Simdgroup* simdgroup);
void metal_nan_found(Thread* thread, const void* site);
int metal_is_unset(float value);
void metal_check_divergence(const Simdgroup* simdgroup);
void metal_find_races_between_groups(Launch* launch, Worker** workers, int count);
void metal_report(Launch* launch, Worker* worker, Finding found);
int metal_counters_open(Worker* worker);
void metal_counters_close(Worker* worker);
void metal_counters_begin(Worker* worker);
void metal_counters_end(Worker* worker);
void metal_counters_meet(Simdgroup* simdgroup);
