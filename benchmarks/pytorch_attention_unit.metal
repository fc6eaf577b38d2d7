// PyTorch's attention kernels for the matrix unit, from the headers of its wheel, with their own instantiations.
#include <metal_stdlib>
#include <c10/metal/utils.h>
using namespace metal;
#include <ATen/native/mps/kernels/MppAttention.h>
