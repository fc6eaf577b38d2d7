// What Python and the runtime share; launch/runtime.py compares both sides when the runtime is loaded.
#pragma once
#include <stdint.h>

#include "../include/metal_simulator/interface.h"

#define NUMBER(name, text) name,
#define NAME(name) name,
enum { __METAL_COLLECTIVES(NUMBER) COLLECTIVES };  // those from QUAD_SUM are those from SUM, of quad-groups
enum { __METAL_LANE_TYPES(NAME) LANE_TYPES };
enum { __METAL_ATOMICS(NAME) ATOMICS };
enum { __METAL_MEMORY_ORDERS(NUMBER) MEMORY_ORDERS };
enum { LANES = 32, MAX_THREADS = 1024, MAX_BUFFERS = 31, ARENA_BYTES = 32768 };
// Lane layouts of cooperative tensors; see matrix_unit.c.
enum { LAYOUT_APPLE10, LAYOUT_OLDER, LAYOUT_INVENTED, LAYOUT_OLD_TARGET };
enum { SLOT_SHIFT = 37 };  // log2 of the address space of a threadgroup variable in a checking launch

// What a kernel's entry point reads.
typedef struct { __METAL_CONTEXT(uint32_t, uint64_t) } Context;
typedef void (*Entry)(const Context*);

// A threadgroup variable or [[threadgroup(n)]] argument of a checking launch. It begins `alignment` bytes after a round
// address: at no more than what its type promises.
typedef struct { uint64_t bytes, alignment; } Slot;

// What the kernel gets, the bytes [low, high) behind it, and whether it promised not to write there.
typedef struct { uint64_t address, low, high, read_only; } Region;

enum {
  RACE_WRITE_WRITE = 1,
  RACE_READ_WRITE,
  OUT_OF_BOUNDS_READ,
  OUT_OF_BOUNDS_WRITE,
  NEVER_WRITTEN,
  GROUPS_WRITE_WRITE,
  GROUPS_READ_WRITE,
  MISALIGNED,
  WRITE_TO_CONST,
  NAN_MADE,
  NAN_WRITTEN,
  DIVERGENT
};
enum { NO_BUFFER = -1, MAX_FINDINGS = 4096 };
typedef struct {
  uint64_t group, other_group, count;
  int64_t offset;  // bytes from the start of the buffer or slot
  uint32_t kind, size;
  int32_t buffer;                 // or MAX_BUFFERS + a slot of threadgroup memory, or NO_BUFFER
  uint32_t thread, other_thread;  // other_thread is UINT32_MAX when there is none
  uint32_t site, other_site;      // code offsets, 0 when unknown
  uint32_t unused;
} Finding;

// What a counting launch is given and fills.
enum { SPACE_DEVICE, SPACE_CONSTANT, SPACE_THREADGROUP, SPACE_PRIVATE, SPACES };
enum { WIDTHS = 6 };  // accesses of 1, 2, 4, 8, 16 and more bytes a lane
enum { TOTAL_INSTRUCTIONS, TOTAL_READ, TOTAL_WRITTEN, TOTAL_LINES, TOTAL_CONFLICTS, TOTALS };
enum { ROW_DEVICE_CLOCKS, ROW_THREADGROUP_CLOCKS, ROW_DEVICE_LINES, ROW_FIELDS };
enum { LINE_BYTES = 128 };
typedef struct {
  uint32_t block_count, class_count, site_count, unused;
  const uint32_t* weights;            // [block][class]
  const uint32_t* site_bytes;         // bytes per lane of each memory instruction
  const uint8_t* site_kinds;          // 1 for a write
  uint8_t constant[MAX_BUFFERS + 1];  // whether a buffer is in constant memory
  uint8_t* touched[MAX_BUFFERS][2];   // a bit for every byte of a buffer: read, written
  uint64_t* rows;                     // [threadgroup][class_count + ROW_FIELDS]
  uint64_t totals[SPACES + MAX_BUFFERS][TOTALS];
  uint64_t accesses[SPACES][2][WIDTHS];
} Counters;

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
  uint64_t barriers, products, unit_products, collectives;  // out
  uint32_t finding_count, failed;                           // out
  uint64_t failed_group;                                    // out
  uint32_t stopped;                                         // out: failed because of the timeout
  uint32_t layout;                                          // of cooperative tensors
  uint32_t sites[2];                                        // out: code offsets of the failure, 0 when unknown
  uint64_t code;                                            // out: where the kernel's shared object lies
  unsigned char* written[MAX_BUFFERS];                      // out, one byte per granule, where Python gives room for it
  const Slot* slots;
  Finding* findings;   // out, room for MAX_FINDINGS
  Counters* counters;  // out, in counting launches
  char message[1024];  // out
} Request;
