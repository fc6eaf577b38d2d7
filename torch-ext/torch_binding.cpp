#include "torch_binding.h"

#include <torch/library.h>

#include "registration.h"

TORCH_LIBRARY_EXPAND(TORCH_EXTENSION_NAME, operators) {
  operators.def(  // which buffers a kernel writes is not known here: all of them may change
      "launch_kernel(str kernel, str[] constants, bool[] values, Tensor(a!)?[] buffers, int[] grid, int[] threads, "
      "bool waits) -> ()");
  operators.impl("launch_kernel", c10::DispatchKey::MPS, &launch_kernel);
  operators.def(
      "describe_pipeline(str kernel, str[] constants, bool[] values) -> (int max_threads, int memory, int simd_width)",
      &describe_pipeline);
  operators.def("describe_device() -> (str name, int family, int cores, int memory, str os)", &describe_device);
}

REGISTER_EXTENSION(TORCH_EXTENSION_NAME)
