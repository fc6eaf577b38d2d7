// The CPU runtime of the simulator: every GPU thread is a fibre, a worker (one per core) runs one threadgroup at a time.
#pragma once
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum { LANES = 32, MAX_THREADS = 1024, MAX_SIMDGROUPS = MAX_THREADS / LANES, MAX_BUFFERS = 31 };
enum { STACK_BYTES = 256 * 1024, ARENA_BYTES = 32768, ARENA_GUARD = 65536 };
enum { SLOT_SHIFT = 37 };  // log2 of the address space of a threadgroup variable in a checking launch, as in checker/slots.py
enum { BARRIER_DEVICE = 1, BARRIER_THREADGROUP = 2 };  // mem_flags, as metal_stdlib spells them

// What a kernel's entry point reads. The same struct is declared in include/metal_simulator/entry.h.
typedef struct {
  const uint64_t* buffers;                // address by buffer index
  const uint64_t* threadgroup_arguments;  // address by [[threadgroup(n)]] index
  const uint32_t* shape;                  // threadgroup position 3, threadgroups per grid 3, threads per threadgroup 3, SIMD groups
  uint32_t thread_index, lane, simdgroup, unused;
  uint32_t position[3], position_in_grid[3];
} Context;

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
  uint32_t barrier_epoch[2];           // of device and of threadgroup memory
  const void* site;  // return address of the collective the arrived lanes wait at
  uint8_t next[LANES];
  uint8_t first;     // first lane in schedule order
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
  uint32_t device_epoch, threadgroup_epoch, group_epoch;  // advance at barriers; group_epoch is the value at the group's start
  uint64_t group, ordinal;  // linear threadgroup index; its place in the order of execution
  uint64_t barriers, products, collectives;
  void* stack_pointer;      // of the worker itself, while its threads run
  sigjmp_buf recover;       // where a failed threadgroup is abandoned
  uintptr_t fault_address;  // set by the signal handler before it leaves through `recover`
  int fault_signal;
  volatile int busy;        // holds a lock: not to be abandoned now
  const void* sites[2];     // return addresses of the calls that metal_fail is about
  uint32_t guarded_stacks;
  char *stacks, *arena, *signal_stack;
  char* plain_arena;  // the arena of launches without the checker, which has slots instead
  uint64_t threadgroup_arguments[MAX_BUFFERS];
  uint32_t shape[12];
  struct Shadow* shadow;    // checker state, only in checking launches
  struct WorkerCounters* counters;  // only in counting launches
  Worker* next;             // free list
};

typedef void (*Entry)(const Context*);

// A threadgroup variable or [[threadgroup(n)]] argument of a checking launch. It begins `alignment` bytes after a round
// address: at no more than what its type promises.
typedef struct { uint64_t bytes, alignment; } Slot;

// What the kernel gets, the bytes [low, high) behind it, and whether it promised not to write there.
typedef struct { uint64_t address, low, high, read_only; } Region;

// What a counting launch is given and fills (profiler/counters.py keeps the same layout).
enum { SPACE_DEVICE, SPACE_CONSTANT, SPACE_THREADGROUP, SPACE_PRIVATE, SPACES };
enum { WIDTHS = 6 };  // accesses of 1, 2, 4, 8, 16 and more bytes a lane
enum { TOTAL_INSTRUCTIONS, TOTAL_READ, TOTAL_WRITTEN, TOTAL_LINES, TOTAL_CONFLICTS, TOTALS };
enum { ROW_DEVICE_CLOCKS, ROW_THREADGROUP_CLOCKS, ROW_LINES, ROW_FIELDS };
typedef struct {
  uint32_t block_count, class_count, site_count, unused;
  const uint32_t* weights;           // [block][class]
  const uint32_t* site_bytes;        // bytes per lane of each memory instruction
  const uint8_t* site_kinds;         // 1 for a write
  uint8_t constant[MAX_BUFFERS + 1];  // whether a buffer is in constant memory
  uint8_t* touched[MAX_BUFFERS][2];  // a bit for every byte of a buffer: read, written
  uint64_t* rows;                    // [threadgroup][class_count + ROW_FIELDS]
  uint64_t totals[SPACES + MAX_BUFFERS][TOTALS];
  uint64_t accesses[SPACES][2][WIDTHS];
} Counters;

// Filled by Python (launch/request.py keeps the same layout).
typedef struct {
  Entry entry;
  uint32_t grid[3], threads[3];
  uint32_t workers, order, check, granule;  // order 0 forward, 1 reverse, 2 seeded; granule: bytes per shadow cell
  uint32_t nan, fences;                     // fences: the kernel has fences of device scope
  uint32_t slot_count, variable_count;      // slots of threadgroup memory; those of variables come first
  uint64_t seed;
  double timeout;         // seconds of processor time that a threadgroup may take, 0 for any
  uint64_t static_bytes;  // of threadgroup variables
  uint64_t dynamic_bytes[MAX_BUFFERS];
  Region buffers[MAX_BUFFERS];
  uint64_t barriers, products, collectives;  // out
  uint32_t finding_count, failed;            // out
  uint64_t failed_group;                     // out
  uint32_t stopped, reserved;                // out: failed because of the timeout
  uint32_t sites[2];                         // out: code offsets of the failure, 0 when unknown
  uint64_t code;                             // out: where the kernel's shared object lies
  unsigned char* written[MAX_BUFFERS];       // out, one byte per granule, where Python gives room for it
  const Slot* slots;
  struct Finding* findings;                  // out, room for MAX_FINDINGS
  Counters* counters;                        // out, in counting launches
  char message[1024];                        // out
} Request;

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

enum { MAX_FINDINGS = 4096 };
// Kept equal to KINDS in checker/findings.py.
enum { RACE_WRITE_WRITE = 1, RACE_READ_WRITE, OUT_OF_BOUNDS_READ, OUT_OF_BOUNDS_WRITE, NEVER_WRITTEN, GROUPS_WRITE_WRITE,
       GROUPS_READ_WRITE, MISALIGNED, WRITE_TO_CONST, NAN_MADE, NAN_WRITTEN, DIVERGENT };
enum { NO_BUFFER = -1 };

typedef struct Finding {
  uint64_t group, other_group, count;
  int64_t offset;                 // bytes from the start of the buffer or slot
  uint32_t kind, size;
  int32_t buffer;                 // or MAX_BUFFERS + a slot of threadgroup memory, or NO_BUFFER
  uint32_t thread, other_thread;  // other_thread is UINT32_MAX when there is none
  uint32_t site, other_site;      // code offsets, 0 when unknown
  uint32_t unused;
} Finding;

extern __thread Thread* metal_current __attribute__((visibility("hidden")));

void metal_run_threadgroup(Worker* worker);
_Noreturn void metal_fail(Worker* worker, const char* format, ...) __attribute__((format(printf, 2, 3)));
void metal_complete(Simdgroup* simdgroup);
const char* metal_operation_name(uint32_t operation);

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
enum { READS = 1, WRITES = 2, ATOMIC = 4, COPIES = 8, THREE = 16 };  // COPIES: of an object, padding included; THREE: of 3 or 4 elements
void metal_check_access(const void* address, uint32_t size, int kind, const void* site);
void metal_check_aligned(const void* address, uint32_t size, uint32_t alignment, const void* site);
void metal_check_products(Simdgroup* simdgroup);
void metal_check_divergence(const Simdgroup* simdgroup);
void metal_find_races_between_groups(Launch* launch, Worker** workers, int count);
void metal_report(Launch* launch, Worker* worker, Finding found);
int metal_counters_open(Worker* worker);
void metal_counters_close(Worker* worker);
void metal_counters_begin(Worker* worker);
void metal_counters_end(Worker* worker);
void metal_counters_meet(Simdgroup* simdgroup);
