// A memory fault or integer trap in a kernel becomes a failed launch, and so does the signal with which a launch stops a
// thread that never ends; faults elsewhere keep their former handlers.
#define _GNU_SOURCE
#include "runtime.h"

#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, STOP_SIGNAL};
enum { SIGNALS = sizeof signals / sizeof *signals };
static const uint64_t unbound_bytes = 1ull << 32;  // address space behind each unbound buffer

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int users;
static struct sigaction former[SIGNALS];
static char* unbound;

#if defined(__x86_64__)
static uintptr_t program_counter(const ucontext_t* c) { return c->uc_mcontext.gregs[REG_RIP]; }
static uintptr_t stack_pointer(const ucontext_t* c) { return c->uc_mcontext.gregs[REG_RSP]; }
#else
static uintptr_t program_counter(const ucontext_t* c) { return c->uc_mcontext.pc; }
static uintptr_t stack_pointer(const ucontext_t* c) { return c->uc_mcontext.sp; }
#endif

// Where the kernel was: the program counter, or when that is in the runtime or the C library the topmost word of the
// stack that looks like a return address into the kernel.
static const void* kernel_site(const Thread* t, const ucontext_t* context) {
  const Launch* launch = t->worker->launch;
  uintptr_t size = launch->text_high - launch->text_low, counter = program_counter(context);
  if (counter - launch->text_low < size) return (void*)(counter + 1);
  // Between two threads the stack may already be another thread's than t, or the worker's own.
  uintptr_t stacks = (uintptr_t)t->worker->stacks, word = stack_pointer(context) & ~(sizeof word - 1);
  if (word - stacks >= (size_t)STACK_BYTES * t->worker->thread_count) word = (uintptr_t)t->stack_pointer;
  uintptr_t top = stacks + ((word - stacks) / STACK_BYTES + 1) * STACK_BYTES;
  for (; top - word < STACK_BYTES; word += sizeof word)
    if (*(uintptr_t*)word - launch->text_low < size) return *(void**)word;
  return t->simdgroup->site;  // the collective that its lanes last met at
}

static void handle(int signal, siginfo_t* info, void* context) {
  if (metal_current) {
    Worker* w = metal_current->worker;
    if (signal == STOP_SIGNAL && w->busy) return;  // it is sent again
    w->fault_signal = signal;
    w->fault_address = (uintptr_t)info->si_addr;
    w->sites[0] = kernel_site(metal_current, context);
    w->sites[1] = NULL;
    siglongjmp(w->recover, 2);
  }
  if (signal == STOP_SIGNAL) return;
  for (int i = 0; i < SIGNALS; i++)
    if (signals[i] == signal)
      sigaction(signal, &former[i], NULL);  // returning repeats the fault under the former handler
}

void metal_faults_acquire(void) {
  struct sigaction action = {.sa_sigaction = handle, .sa_flags = SA_SIGINFO | SA_ONSTACK};
  sigemptyset(&action.sa_mask);
  pthread_mutex_lock(&lock);
  if (users++ == 0)
    for (int i = 0; i < SIGNALS; i++) sigaction(signals[i], &action, &former[i]);
  pthread_mutex_unlock(&lock);
}

void metal_faults_release(void) {
  pthread_mutex_lock(&lock);
  if (--users == 0)
    for (int i = 0; i < SIGNALS; i++) sigaction(signals[i], &former[i], NULL);
  pthread_mutex_unlock(&lock);
}

// An address whose use faults and tells which unbound buffer was used.
uint64_t metal_unbound_address(int buffer) {
  pthread_mutex_lock(&lock);
  if (!unbound) {
    void* memory =
        mmap(NULL, unbound_bytes * MAX_BUFFERS, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED) unbound = memory;
  }
  pthread_mutex_unlock(&lock);
  return unbound ? (uint64_t)unbound + unbound_bytes * buffer : 0;
}

void metal_fail_fault(Worker* w) {
  uint32_t thread = metal_current->context.thread_index;
  uintptr_t address = w->fault_address;
  if (w->fault_signal == STOP_SIGNAL)
    metal_fail(
        w, "thread %u: stopped after %g seconds: the threadgroup does not end", thread, w->launch->request->timeout);
  if (w->fault_signal == SIGFPE) metal_fail(w, "thread %u: integer division by zero or overflow", thread);
  if (w->fault_signal == SIGILL) metal_fail(w, "thread %u: reached undefined behaviour", thread);
  char* stack = w->stacks + (size_t)STACK_BYTES * thread;
  if (address - (uintptr_t)stack < 4096) metal_fail(w, "thread %u: stack overflow (256 KB)", thread);
  if (unbound && address - (uintptr_t)unbound < unbound_bytes * MAX_BUFFERS)
    metal_fail(w, "thread %u: used buffer %lu, which is not bound", thread,
               (unsigned long)((address - (uintptr_t)unbound) / unbound_bytes));
  metal_fail(w, "thread %u: memory fault at address 0x%lx; launch with check=True for the buffer", thread,
             (unsigned long)address);
}
