// Function constants: what changes a kernel's behaviour but not the shape of its registers. Each is spelled once,
// here; the planner sets them by name. Where there is no pipeline specialisation (torch.mps.compile_shader), the
// launcher rewrites each of these lines into a plain constant.
#pragma once

constant bool is_packed [[function_constant(0)]];   // sequences lie end to end, bounded by cu_seqlens
constant bool is_aligned [[function_constant(1)]];  // every query/key/value/output row starts on a 16-byte boundary
constant bool writes_lse [[function_constant(2)]];  // the log-sum-exp of every row is wanted
