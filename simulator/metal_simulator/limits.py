"""Metal's limits; launch/runtime.py compares them with those of the runtime in C."""

LANES = 32  # threads of a SIMD group
MAX_THREADS = 1024  # of a threadgroup
MAX_BUFFERS = 31  # of a kernel, and as many threadgroup arguments
THREADGROUP_LIMIT = 32768  # bytes of threadgroup memory
