// Function constants: what changes a kernel's behaviour but not the shape of its registers. Each is spelled once,
// here; the planner sets them by name. Where there is no pipeline specialisation (torch.mps.compile_shader), the
// launcher rewrites each of these lines into a plain constant.
#pragma once

constant bool is_packed [[function_constant(0)]];      // sequences lie end to end, bounded by cu_seqlens
constant bool is_paged [[function_constant(1)]];       // keys and values lie in pages, found through block_table
constant bool is_aligned [[function_constant(2)]];     // every query/key/value/output row starts on a 16-byte boundary
constant bool is_padded [[function_constant(3)]];      // rows are shorter than the kernel's
constant bool has_seqused_k [[function_constant(4)]];  // sequences use only their first seqused_k keys
constant bool has_softcap [[function_constant(5)]];    // scores are capped
constant bool has_alibi [[function_constant(6)]];      // scores fall with the distance of query and key
constant bool has_sinks [[function_constant(7)]];      // each head has one more exponential in its sums
constant bool is_split [[function_constant(8)]];       // the keys of a tile are divided among threadgroups
constant bool writes_lse [[function_constant(9)]];     // the log-sum-exp of every row is wanted
constant bool writes_softmax [[function_constant(10)]];  // row_max and log2_sum of every row are wanted
constant bool has_dropout [[function_constant(11)]];     // some weights are dropped after they were summed
constant bool stores_weights [[function_constant(12)]];  // the gradients of keys and values are wanted, too
constant bool carries_sums [[function_constant(13)]];    // sums go on from one launch to another
constant bool has_grad_lse [[function_constant(14)]];    // the log-sum-exp has a gradient of its own
constant bool has_bias [[function_constant(15)]];        // every score has a bias of its own
constant bool bias_is_mask [[function_constant(16)]];    // which says, instead, whether the key is seen
constant bool bias_is_float [[function_constant(17)]];   // which is fp32, whatever the queries are
