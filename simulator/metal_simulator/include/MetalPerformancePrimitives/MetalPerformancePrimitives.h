#pragma once
#include <metal_stdlib>
#include <metal_simulator/matmul2d.h>
