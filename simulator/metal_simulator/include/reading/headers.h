// All that is precompiled for reading.
#include <metal_stdlib>
#include <simd/simd.h>
#include <metal_logging>
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
