// The thread that a worker runs, and how it ends its launch.
#include "runtime.h"

#include <stdarg.h>
#include <stdio.h>

__thread Thread* metal_current;

_Noreturn void metal_fail(Worker* w, const char* format, ...) {
  Launch* launch = w->launch;
  Request* request = launch->request;
  w->busy = 1;
  pthread_mutex_lock(&launch->lock);
  if (w->ordinal < launch->failed_ordinal) {
    launch->failed_ordinal = w->ordinal;
    request->failed = 1;
    request->stopped = w->fault_signal == STOP_SIGNAL;
    request->failed_group = w->group;
    for (int i = 0; i < 2; i++) request->sites[i] = w->sites[i] ? (uintptr_t)w->sites[i] - launch->code_low : 0;
    int used = snprintf(
        request->message, sizeof request->message, "threadgroup (%u, %u, %u): ", w->shape[0], w->shape[1], w->shape[2]);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(request->message + used, sizeof request->message - used, format, arguments);
    va_end(arguments);
  }
  pthread_mutex_unlock(&launch->lock);
  w->busy = 0;
  atomic_store(&launch->stop, 1);
  siglongjmp(w->recover, 1);
}
