// What Metal has without any #include: address spaces, types, conversions, the enumerations of barriers.
#pragma once
#include <metal_simulator/types.h>
#include <metal_simulator/traits.h>
#if __clang_major__ < 17
#include <metal_simulator/bfloat.h>
#endif
#include <metal_simulator/construct.h>
#include <metal_simulator/synchronize.h>
