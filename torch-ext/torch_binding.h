// The operators that a compiled build adds to those that operators/ defines in Python.
#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>

// Runs one launch of a plan (planning/plan.py: Plan) on torch's current stream; without committing or waiting, unless
// waits says so.
//
// constants, values: names and values of the function constants. buffers, by buffer index: a tensor on mps is bound with
// its offset, a uint8 tensor on the CPU is copied into the command (at most 4 KB), nullopt stays unbound. grid:
// threadgroups; threads: threads of a threadgroup; three positive numbers each.
//
// Throws c10::Error (RuntimeError) when the library does not load, the kernel is not in it or does not fit the GPU, or
// the GPU has ended what was waited for with an error, and c10::ValueError for arguments that no plan has.
void launch_kernel(std::string_view kernel, const c10::List<std::string>& constants, const c10::List<bool>& values,
                   const c10::List<std::optional<at::Tensor>>& buffers, at::IntArrayRef grid, at::IntArrayRef threads,
                   bool waits);

// (most threads of a threadgroup, bytes of its memory, threads of a SIMD group) of the pipeline that launch_kernel would
// run; it is made if there is none yet. The first is at most the kernel's max_total_threads_per_threadgroup. Throws as
// launch_kernel does.
std::tuple<int64_t, int64_t, int64_t> describe_pipeline(
    std::string_view kernel, const c10::List<std::string>& constants, const c10::List<bool>& values);

// (name, Apple GPU family, cores, bytes that the GPU works well with, version of the OS). The family is 7 for M1, 8 for
// M2, 9 for M3 and M4, 10 for M5 and newer; 0 when it is none of them.
std::tuple<std::string, int64_t, int64_t, int64_t, std::string> describe_device();
