// What Metal has without any #include: address spaces, types, conversions, the enumerations of barriers.
#pragma once
#include <metal_simulator/types.h>
#include <metal_simulator/traits.h>
#include <metal_simulator/construct.h>
#include <metal_simulator/boolean.h>
#include <metal_simulator/synchronize.h>
