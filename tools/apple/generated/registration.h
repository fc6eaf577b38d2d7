// In place of the header that the kernel builder generates: the two macros of torch_binding.cpp.
#pragma once

#define TORCH_LIBRARY_EXPAND(NAME, MODULE) TORCH_LIBRARY(NAME, MODULE)
#define REGISTER_EXTENSION(NAME)
