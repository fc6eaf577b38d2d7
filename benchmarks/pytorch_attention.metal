// PyTorch's attention kernels for Metal, from the headers of its wheel, with their own instantiations.
#include <metal_stdlib>
#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
#include <c10/metal/utils.h>
using namespace metal;
#include <ATen/native/mps/kernels/PrefillAttention.h>
#include <ATen/native/mps/kernels/DecodeAttention.h>
