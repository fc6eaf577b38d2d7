"""The kernels that use the matrix unit, which are compiled at run time only. Written by tools/embed.py from
flash_sdpa/, where they are to be changed."""

# ruff: noqa: E501

TEXTS = {
    "attention_forward_unit.metal": r"""// The forward kernels that use the matrix unit of Apple10 GPUs. Never compiled ahead of time: with a deployment target
// below macOS 26.2, which the kernel builder does not let one set, operands in registers are silently laid out in another
// way. Then, and where there is no matrix unit in the language, this file has no kernel.
#include <metal_stdlib>
#if __METAL_VERSION__ >= 400 && defined(__HAVE_TENSOR__) && __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ >= 260200
// Tiles for the matrix unit of Apple10 GPUs, which multiplies [16, 16] by [16, 32] at once. It is reached only through
// cooperative tensors. How their elements lie on lanes is not documented by Apple: this is the layout that public kernels
// found on M5, and the host checks it before it uses these kernels (unit_check.metal).
//
// A row of 16 columns lies on four lanes, the same as in an 8x8 fragment; each owns four adjacent columns. Blocks come
// from device memory straight to registers. A lane loads 16 bytes of a row, and so holds its elements of two products: as
// in blocks_direct.h, that only permutes the columns.
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
// Key or value blocks that each SIMD group loads from device memory straight into its registers.
//
// A lane owns two elements of every 8x8 fragment, but loads a chunk of up to 16 adjacent bytes, and so holds its
// elements of several fragments. That only permutes the columns. A product over them (keys) takes any order that the
// query's columns have, too; store() puts those of the output (values) back.
// A matrix held in the registers of one SIMD group, and the verbs on it, destination first. Every verb is collective:
// all lanes of the SIMD group call it. Keys and values are multiplied from a StagedTile, a DirectTile or a UnitBlock.
#include <metal_stdlib>
// Function constants: what changes a kernel's behaviour but not the shape of its registers. Each is spelled once,
// here; the planner sets them by name. Where there is no pipeline specialisation (torch.mps.compile_shader), the
// launcher rewrites each of these lines into a plain constant.

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
// A paged key/value cache: key t of a sequence is key t % size of page block_table[t / size].
#include <metal_stdlib>
// Launch parameters, packed by the planner (planning/plan.py: the same structs, fields and order).
// Every struct has a single field type, so that a launcher that can only pass arrays of numbers can pass it too.

struct Strides {  // elements; head_dim, or the keys of a bias, are contiguous
  long batch;     // of paged keys and values: page; 0 for packed tensors
  long token;
  long head;
};

struct ForwardParams {
  Strides query, key, value, output;
  long lse_batch_stride;  // elements; tokens are contiguous
  long lse_head_stride;
  long batch;         // sequences
  long query_length;  // tokens: of each sequence when dense, of all sequences together when packed
  long key_length;    // as query_length; paged: all that a row of block_table can hold
  long head_dim;      // elements of a query or key row that exist
  long value_dim;     // elements of a value or output row that exist
  long heads_per_kv;  // query heads that share one key/value head
  long window_left;   // keys visible before the diagonal; 2^30 = all
  long window_right;  // keys visible after the diagonal; 0 = causal, 2^30 = all
  long num_pages;
  long page_size;            // keys of a page, a multiple of 16
  long block_table_stride;   // page ids of a sequence
  long alibi_batch_stride;   // slopes: 0 or num_heads
  long num_splits;           // parts that the keys of a tile are divided in
  long output_split_stride;  // elements of one part's output
  long lse_split_stride;     // elements of one part's lse
  long first_tile;           // of this launch; those before it are another launch's
  long aligns_last;          // 1: the last query token lines up with the last key; 0: the first one with the first
  Strides bias;
  long bias_keys;        // that have a bias, whatever the sequence has: those beyond are not seen; 2^30 = all
  long bias_key_stride;  // 1, or 0 where one bias is that of all keys
};
static_assert(sizeof(ForwardParams) == 36 * 8, "plan.ForwardParams packs 36 int64");

// A score is <query_factor * query, key>, then capped or biased, in a unit that keeps it below 2^127: scale times a
// score is what the softmax takes the exponential of.
struct ScoreParams {
  float query_factor;  // the sign of softmax_scale, exact in every dtype; with a tiny scale a power of two beside it
  float tanh_scale;    // with softcap: the score is tanh(tanh_scale * score)
  float bias_factor;   // with ALiBi or a bias: multiplies the score before these are added; at most 1
  float scale;         // at least 2^-119
  float scale_log2;    // scale * log2(e)
};
static_assert(sizeof(ScoreParams) == 5 * 4, "plan.ScoreParams packs 5 float32");

// Given with the call: never part of a plan.
struct DropoutParams {
  long seed;       // 64 bits
  long threshold;  // weights that are kept of every 65536
};
static_assert(sizeof(DropoutParams) == 2 * 8, "plan.DropoutParams packs 2 int64");

struct CombineParams {
  Strides output;         // elements
  long lse_batch_stride;  // elements; tokens are contiguous
  long lse_head_stride;
  long rows;  // tokens x heads of all sequences
  long num_heads;
  long tokens;     // of each sequence when dense, of all sequences together when packed
  long value_dim;  // elements of a row
  long num_splits;
};
static_assert(sizeof(CombineParams) == 10 * 8, "plan.CombineParams packs 10 int64");

struct BackwardParams {
  ForwardParams forward;  // of the call whose gradients are wanted
  Strides grad_output, grad_query, grad_key, grad_value;
  long stored_keys;   // of a tile of rows, at most: a multiple of kStoredKeys (stored_weights.h)
  long stored_tiles;  // of a key/value head in a chunk, at most
  long sum_tiles;     // tiles of keys of a sequence, at most, that sums are carried for
};
static_assert(sizeof(BackwardParams) == 51 * 8, "plan.BackwardParams packs 51 int64");

// What one launch of a backward kernel does: each key/value head from first_head on, with the tiles of query rows
// [first_tile, end_tile), of all sequences, and the keys [first_key, end_key) of each sequence.
struct ChunkParams {
  long first_head;
  long first_tile, end_tile;
  long first_key, end_key;
  long first_key_tile;            // the first tile of keys, where they are one dense sequence's; else 0
  long carried_from, carried_to;  // which of two halves sums come from and go to
};
static_assert(sizeof(ChunkParams) == 8 * 8, "plan.ChunkParams packs 8 int64");
using namespace metal;

struct Pages {
  device const int* block_table;  // page ids of this sequence
  int size;                       // keys of a page
  int count;                      // pages that exist

  // The page of a key, wherever block_table points.
  int id(int token) const { return clamp(block_table[token / size], 0, count - 1); }
};

// The pages of a sequence. block_table: of all sequences.
inline Pages pages_of(device const int* block_table, constant ForwardParams& params, int sequence) {
  return {block_table + sequence * params.block_table_stride, int(params.page_size), int(params.num_pages)};
}
using namespace metal;

#define UNROLL _Pragma("clang loop unroll(full)")  // fragments stay in registers only if every index is a constant

constant constexpr int kFragment = 8;                  // edge of a simdgroup_matrix; MSL has 8x8 only
constant constexpr int kSimdWidth = 32;                // lanes of a SIMD group
constant constexpr int kThreadgroupBytes = 32 * 1024;  // the most memory of a threadgroup

// Where a lane sits in an 8x8 fragment: it owns (row, column) and (row, column + 1). Not documented by Apple;
// MLX (steel/attn/mma.h) and tinygrad (runtime/ops_python.py) agree on it.
struct Lane { short row, column; };
inline Lane lane_position(uint lane) {
  const short quad = short(lane) / 4;
  return {short((quad & 4) + (short(lane) / 2) % 4), short((quad & 2) * 2 + (short(lane) % 2) * 2)};
}

// How blocks of keys and values get to the registers, and what multiplies them there: planning/tiles.py has the same.
enum class Loader { staged, direct, unit, unit_rereads };

// The kinds of tiles of a loader: Block (of keys or values), Query, and Registers (scores and output).
template <Loader kLoader>
struct Kinds;

// The two values of a fragment that this lane owns.
template <typename T>
inline thread vec<T, 2>& elements(thread simdgroup_matrix<T, kFragment, kFragment>& frag) {
  return reinterpret_cast<thread vec<T, 2>&>(frag.thread_elements());
}

// All kinds of tiles tell what a lane owns in the same words: kLanePairs pairs of adjacent columns of each of kLaneRows
// rows. pair(tile, i, j) is one of row 8 * i + lane.row, in the columns column(j, lane) and the next.
template <typename T, int kRows, int kColumns>
struct RegisterTile {  // [kRows, kColumns]
  static_assert(kRows % kFragment == 0 && kColumns % kFragment == 0, "whole fragments");
  using Element = T;
  static constant constexpr short kLaneRows = kRows / kFragment, kLanePairs = kColumns / kFragment;
  simdgroup_matrix<T, kFragment, kFragment> frag[kLaneRows][kLanePairs];

  // The first of the two columns of pair j.
  static int column(short j, Lane lane) { return j * kFragment + lane.column; }
  // What the product with the values makes of weights: nothing else.
  static constant constexpr bool kRounds = false;
  static float2 rounded(float2 weights) { return weights; }
  // Two bits for each pair of fragments: those of its own pairs.
  static uint own_bits(uint bits, Lane) { return bits; }
};
template <typename T, int kRows, int kColumns>
inline thread vec<T, 2>& pair(thread RegisterTile<T, kRows, kColumns>& tile, short i, short j) {
  return elements(tile.frag[i][j]);
}

template <int kRows>
struct RowVector {  // [kRows]: at[i] belongs to row 8 * i + lane.row, and is the same on that row's four lanes
  float at[kRows / kFragment];
};

constexpr int larger(int a, int b) { return a > b ? a : b; }

// Whether a row of `columns` elements has this one. Aligned rows have whole chunks of 16 bytes.
inline bool has_column(int columns, int column) { return !is_padded || column < columns; }

// Key or value rows of a block: row r is the block's token r, at data + r * stride or in its page; rows from count()
// on, and columns from columns on, do not exist.
template <typename T>
struct KeyRows {
  device const T* data;      // of the block's first token; if is_paged, of the first page
  long stride, page_stride;  // elements
  int first, length;         // tokens: the block's first one, and how many the sequence has
  int columns;
  Pages pages;  // if is_paged

  // Moves the data to the block that starts `tokens` later. The caller sets first, to one value for keys and values.
  void advance(int tokens) {
    if (!is_paged) data += tokens * stride;
  }

  int count() const { return length - first; }

  // Row r through its page.
  device const T* paged_row(int r) const {
    const int token = first + r;
    return data + pages.id(token) * page_stride + (token % pages.size) * stride;
  }

  // Row r of the 8 that begin at begin, a multiple of 8, as pages do. Another row stands in for one that does not
  // exist: its weight is 0.
  device const T* row(short begin, short r) const {
    device const T* start = is_paged ? paged_row(min(int(begin), count() - 1)) : data + begin * stride;
    device const T* other = is_paged ? start : data;
    return begin + r < count() ? start + r * stride : other;
  }
};

// Query or output rows of the heads that share a key/value head: row r is token r / heads_per_kv of head
// r % heads_per_kv among them; rows from count on, and columns from columns on, do not exist.
template <typename T>
struct QueryRows {
  device T* data;
  long token_stride, head_stride;  // elements
  int heads_per_kv;
  int count, columns;

  device T* row(int r) const { return data + (r / heads_per_kv) * token_stride + (r % heads_per_kv) * head_stride; }
};

template <typename Tile>
inline void zero(thread Tile& tile) {
  using T = typename Tile::Element;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) = vec<T, 2>(T(0));
}

// tile[row, :] *= factor[row]
template <typename Tile, int kRows>
inline void scale_rows(thread Tile& tile, thread const RowVector<kRows>& factor) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++)
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) pair(tile, i, j) *= factor.at[i];
}

// tile = factor * rows[row0 ...]; missing rows and columns are 0. KeyTile gives the order of the columns in which the
// tile will be multiplied.
template <typename KeyTile, typename Tile, typename T>
inline void load(thread Tile& tile, QueryRows<const T> rows, int row0, float factor, Lane lane) {
  using Element = typename Tile::Element;
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
    const int r = row0 + i * kFragment + lane.row;
    const bool exists = r < rows.count;
    device const T* source = rows.row(min(r, rows.count - 1));
    UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
      const int column = KeyTile::key_column(j, lane.column), next = KeyTile::key_column(j, lane.column + 1);
      vec<T, 2> two = vec<T, 2>(T(0));
      if (exists && is_aligned && next == column + 1 && has_column(rows.columns, column)) {
        two = *(device const vec<T, 2>*)(source + column);
      } else if (exists) {
        if (has_column(rows.columns, column)) two[0] = source[column];
        if (has_column(rows.columns, next)) two[1] = source[next];
      }
      pair(tile, i, j) = vec<Element, 2>{Element(factor * float(two[0])), Element(factor * float(two[1]))};
    }
  }
}

// rows[row0 ...] = tile; missing rows and columns are not written. ValueTile gives the order of the columns.
template <typename ValueTile, typename T, typename Tile>
inline void store(QueryRows<T> rows, thread Tile& tile, int row0, Lane lane) {
  UNROLL for (short i = 0; i < Tile::kLaneRows; i++) {
    const int r = row0 + i * kFragment + lane.row;
    if (r < rows.count) {
      device T* target = rows.row(r);
      UNROLL for (short j = 0; j < Tile::kLanePairs; j++) {
        const int column = ValueTile::value_column(j, lane.column);
        const float2 two = pair(tile, i, j);
        if (is_aligned && has_column(rows.columns, column)) {
          *(device vec<T, 2>*)(target + column) = vec<T, 2>{T(two[0]), T(two[1])};
        } else if (!is_aligned) {
          if (has_column(rows.columns, column)) target[column] = T(two[0]);
          if (has_column(rows.columns, column + 1)) target[column + 1] = T(two[1]);
        }
      }
    }
  }
}

constexpr int chunk_of(int limit, int columns) {  // largest power of two, at most limit and 8, that divides columns
  return limit >= 8 && columns % 8 == 0   ? 8
         : limit >= 4 && columns % 4 == 0 ? 4
         : limit >= 2 && columns % 2 == 0 ? 2
                                          : 1;
}

// [kRows, kColumns], of which a SIMD group multiplies with one of kSlices slices of the columns.
template <typename T, int kRows, int kColumns, int kSlices>
struct DirectTile {
  using Element = T;                         // of the products
  static constant constexpr int kBytes = 0;  // of threadgroup memory
  static constant constexpr int kSliceColumns = kColumns / kSlices;
  // Elements of a chunk. A fragment of keys has its columns on eight lanes, one of values on four, two each.
  static constant constexpr int kKeyChunk = chunk_of(16 / sizeof(T), kSliceColumns / 8);
  static constant constexpr int kValueChunk = chunk_of(16 / sizeof(T), kSliceColumns / 4);
  threadgroup T* data;  // unused
  int slice;
  KeyRows<T> rows;

  // Column of a slice that is column c of fragment j: kKeyChunk fragments, or kValueChunk / 2, share each chunk.
  static short key_column(short j, short c) { return j / kKeyChunk * kKeyChunk * 8 + c * kKeyChunk + j % kKeyChunk; }
  static short value_column(short j, short c) {
    constexpr short kFragments = kValueChunk / 2;
    return j / kFragments * kValueChunk * 4 + c / 2 * kValueChunk + j % kFragments * 2 + c % 2;
  }
  // A lane finds its place in each block anew.
  static void place(thread KeyRows<T>&, int, Lane) {}

  // This SIMD group's slice of a row: KeyRows' row.
  device const T* row(short begin, short r) const { return rows.row(begin, r) + slice * kSliceColumns; }
  int columns() const { return rows.columns - slice * kSliceColumns; }
};

template <>
struct Kinds<Loader::direct> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = DirectTile<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = RegisterTile<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = RegisterTile<float, kRows, kColumns>;
};

template <int kThreads, typename T, int kRows, int kColumns, int kSlices>
inline void load_block(thread DirectTile<T, kRows, kColumns, kSlices>& tile, KeyRows<T> rows, uint) {
  tile.rows = rows;
}

template <int kCount, typename T>
inline void clear_chunk(thread T* chunk) {
  UNROLL for (short e = 0; e < kCount; e++) chunk[e] = T(0);
}

// chunk = source[0 ... kCount - 1]; elements from columns on do not exist and become 0. Copied as vectors: these may
// alias elements of any type, where the compiler takes a scalar of another type to be elsewhere in memory.
template <int kCount, typename T>
inline void load_chunk(thread T* chunk, device const T* source, int columns) {
  constexpr int kBytes = kCount * sizeof(T);
  if (is_aligned && kCount >= 2 && !has_column(columns, 0)) {
    clear_chunk<kCount>(chunk);
  } else if (is_aligned && kBytes == 16) {
    *(thread uint4*)chunk = *(device const uint4*)source;
  } else if (is_aligned && kBytes == 8) {
    *(thread uint2*)chunk = *(device const uint2*)source;
  } else if (is_aligned && kCount == 2) {
    *(thread vec<T, 2>*)chunk = *(device const vec<T, 2>*)source;
  } else {
    UNROLL for (short e = 0; e < kCount; e++) chunk[e] = has_column(columns, e) ? source[e] : T(0);
  }
}

// c[kM, kN] += a[kM, kK] * transpose(slice of b[kN, kColumns])
template <typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply_transposed(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<T, kM, kK>& a,
                                DirectTile<T, kN, kColumns, kSlices> b, Lane lane) {
  constexpr short kChunk = DirectTile<T, kN, kColumns, kSlices>::kKeyChunk;
  simdgroup_matrix<T, kFragment, kFragment> b_fragment;
  alignas(16) T first[kChunk];  // of two adjacent keys
  alignas(16) T second[kChunk];
  UNROLL for (short n = 0; n < kN / kFragment; n++) {
    device const T* first_row = b.row(n * kFragment, lane.column);
    device const T* second_row = b.row(n * kFragment, lane.column + 1);
    UNROLL for (short k = 0; k < kK / kFragment; k += kChunk) {
      const short column = b.key_column(k, lane.row);
      load_chunk<kChunk>(first, first_row + column, b.columns() - column);
      load_chunk<kChunk>(second, second_row + column, b.columns() - column);
      UNROLL for (short e = 0; e < kChunk; e++) {
        elements(b_fragment) = vec<T, 2>{first[e], second[e]};
        UNROLL for (short m = 0; m < kM / kFragment; m++)
          simdgroup_multiply_accumulate(c.frag[m][n], a.frag[m][k + e], b_fragment, c.frag[m][n]);
      }
    }
  }
}

// c[kM, kN] += a[kM, kK] * slice of b[kK, kColumns]. a stays fp32, whatever b's type: nothing is rounded before the
// product.
template <typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply(thread RegisterTile<float, kM, kN>& c, thread RegisterTile<float, kM, kK>& a,
                     DirectTile<T, kK, kColumns, kSlices> b, Lane lane) {
  constexpr short kChunk = DirectTile<T, kK, kColumns, kSlices>::kValueChunk;
  simdgroup_matrix<T, kFragment, kFragment> b_fragment;
  alignas(16) T pairs[kChunk];
  UNROLL for (short k = 0; k < kK / kFragment; k++) {
    device const T* row = b.row(k * kFragment, lane.row);
    UNROLL for (short n = 0; n < kN / kFragment; n += kChunk / 2) {
      const short column = b.value_column(n, lane.column);
      load_chunk<kChunk>(pairs, row + column, b.columns() - column);
      UNROLL for (short e = 0; e < kChunk / 2; e++) {
        elements(b_fragment) = vec<T, 2>{pairs[2 * e], pairs[2 * e + 1]};
        UNROLL for (short m = 0; m < kM / kFragment; m++)
          simdgroup_multiply_accumulate(c.frag[m][n + e], a.frag[m][k], b_fragment, c.frag[m][n + e]);
      }
    }
  }
}

// A lane's part of a [16, 16] left operand: four columns of rows r and r + 8.
template <typename T>
struct LeftPart {
  vec<T, 4> first, second;
};

// [kRows, kColumns]: of 16 columns a lane owns four, in two pairs.
template <typename T, int kRows, int kColumns>
struct UnitTile {
  static_assert(kRows % 16 == 0 && kColumns % 16 == 0, "whole products");
  using Element = T;
  static constant constexpr short kLaneRows = kRows / kFragment, kLanePairs = kColumns / kFragment;
  vec<T, 2> pairs[kLaneRows][kLanePairs];

  static int column(short j, Lane lane) { return j / 2 * 16 + lane.column * 2 + j % 2 * 2; }

  // The unit cuts fp32 to 10 bits of mantissa, which would make all weights too small. Rounded before, they lose nothing
  // on one side only. NaN stays, whatever its bits.
  static constant constexpr bool kRounds = true;
  static float2 rounded(float2 weights) {
    return as_type<float2>((min(as_type<uint2>(weights), 0x7fffefffu) + 0x1000u) & 0xffffe000u);
  }

  // Of a row's four lanes, 0 and 1, or 2 and 3, hold the numbers of this lane's pairs in turns.
  static uint own_bits(uint bits, Lane lane) {
    const ushort even_lane = lane.row % 4 * 2 + lane.row / 4 * 16 + lane.column / 2 % 2 * 8;
    const short shift = lane.column / 4 * 2;
    const uint even = simd_shuffle(bits, even_lane) >> shift, odd = simd_shuffle(bits, ushort(even_lane + 1)) >> shift;
    return (even & 0x33333333u) | (odd & 0x33333333u) << 2;
  }

  // The query's: it has all columns, times the factor.
  void fetch(short) {}
  template <typename Scores>
  void apply_factor(thread Scores&) const {}

  LeftPart<T> left(short m, short k) const {
    const vec<T, 2> a = pairs[2 * m][2 * k], b = pairs[2 * m][2 * k + 1];
    const vec<T, 2> c = pairs[2 * m + 1][2 * k], d = pairs[2 * m + 1][2 * k + 1];
    return {vec<T, 4>{a[0], a[1], b[0], b[1]}, vec<T, 4>{c[0], c[1], d[0], d[1]}};
  }
};
template <typename T, int kRows, int kColumns>
inline thread vec<T, 2>& pair(thread UnitTile<T, kRows, kColumns>& tile, short i, short j) {
  return tile.pairs[i][j];
}

// Query rows [kRows, kColumns] that are read again for each block of keys: registers hold 32 columns of them at a time.
template <typename T, int kRows, int kColumns>
struct UnitRows {
  static_assert(kRows % 16 == 0 && kColumns % 32 == 0, "whole products of 16-bit elements");
  device const T* row[kRows / kFragment];  // from this lane's first column on
  int columns;                             // that exist from there on
  float factor;
  alignas(16) T chunk[kRows / kFragment][8];

  // Loads the columns of two products, 2 * k and the next.
  void fetch(short k) {
    UNROLL for (short i = 0; i < kRows / kFragment; i++) load_chunk<8>(chunk[i], row[i] + 32 * k, columns - 32 * k);
  }
  // Scores take the factor that the rows in memory do not have. It is 1 but for a negative or a very small scale.
  template <typename Scores>
  void apply_factor(thread Scores& scores) const {
    if (factor != 1)
      UNROLL for (short i = 0; i < Scores::kLaneRows; i++)
        UNROLL for (short j = 0; j < Scores::kLanePairs; j++) pair(scores, i, j) *= factor;
  }

  LeftPart<T> left(short m, short k) const {
    thread const T* first = chunk[2 * m] + k % 2 * 4;
    thread const T* second = chunk[2 * m + 1] + k % 2 * 4;
    return {vec<T, 4>{first[0], first[1], first[2], first[3]}, vec<T, 4>{second[0], second[1], second[2], second[3]}};
  }
};

// Where a lane's rows of a block begin: at[i] is that of row 8 * i + lane.row.
template <typename T, int kRows>
struct LaneRows { device const T* at[kRows / kFragment]; };

// [kRows, kColumns], of which a SIMD group multiplies with one of kSlices slices of the columns.
template <typename T, int kRows, int kColumns, int kSlices>
struct UnitBlock {
  using Element = T;                         // of the products
  static constant constexpr int kBytes = 0;  // of threadgroup memory
  static constant constexpr int kSliceColumns = kColumns / kSlices;
  static constant constexpr int kChunk = 16 / sizeof(T);  // elements that a lane loads of 32 columns
  static_assert(kChunk == 8 && kRows % 32 == 0 && kSliceColumns % 32 == 0, "whole products of 16-bit elements");
  threadgroup T* data;  // unused
  int slice;
  KeyRows<T> rows;

  // Column of a slice that is column c of pair j, if c is one of an 8x8 fragment.
  static short key_column(short j, short c) { return j / 4 * 32 + c / 2 * kChunk + j % 4 * 2 + c % 2; }
  static short value_column(short j, short c) { return key_column(j, c); }

  // Moves the data to this lane's first column, and unless paged to its row: 64-bit additions are dear, and so are left
  // to advance() and to the constant distances of a lane's rows.
  static void place(thread KeyRows<T>& rows, int slice, Lane lane) {
    const int column = slice * kSliceColumns + key_column(0, lane.column);
    rows.data += column;
    rows.columns -= column;
    if (!is_paged) rows.data += lane.row * rows.stride;
  }

  // The last row stands in for those that do not exist: their weights are 0.
  LaneRows<T, kRows> lane_rows(Lane lane) const {
    LaneRows<T, kRows> found;
    if (is_paged) {
      UNROLL for (short i = 0; i < kRows / kFragment; i++) found.at[i] = rows.row(i * kFragment, lane.row);
    } else if (rows.count() >= kRows) {
      UNROLL for (short i = 0; i < kRows / kFragment; i++) found.at[i] = rows.data + i * kFragment * rows.stride;
    } else {
      UNROLL for (short i = 0; i < kRows / kFragment; i++)
        found.at[i] = rows.data + (min(i * kFragment + lane.row, rows.count() - 1) - lane.row) * rows.stride;
    }
    return found;
  }
};

template <>
struct Kinds<Loader::unit> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = UnitBlock<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = UnitTile<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = UnitTile<float, kRows, kColumns>;
};
template <>
struct Kinds<Loader::unit_rereads> {
  template <typename T, int kRows, int kColumns, int kSlices>
  using Block = UnitBlock<T, kRows, kColumns, kSlices>;
  template <typename T, int kRows, int kColumns>
  using Query = UnitRows<T, kRows, kColumns>;
  template <int kRows, int kColumns>
  using Registers = UnitTile<float, kRows, kColumns>;
};

template <int kThreads, typename T, int kRows, int kColumns, int kSlices>
inline void load_block(thread UnitBlock<T, kRows, kColumns, kSlices>& tile, KeyRows<T> rows, uint) {
  tile.rows = rows;
}

// tile = factor * rows[row0 ...]; the last row stands in for missing ones. KeyTile is a UnitBlock.
template <typename KeyTile, typename T, int kRows, int kColumns>
inline void load(thread UnitRows<T, kRows, kColumns>& tile, QueryRows<const T> rows, int row0, float factor,
                 Lane lane) {
  const int column = KeyTile::key_column(0, lane.column);
  UNROLL for (short i = 0; i < kRows / kFragment; i++)
    tile.row[i] = rows.row(min(row0 + i * kFragment + lane.row, rows.count - 1)) + column;
  tile.columns = rows.columns - column;
  tile.factor = factor;
}

// c[rows 16 m ..., columns 32 n ...] += a * b, or * transpose(b), a being [16, 16]. Of b a lane gives its rows r and
// r + 8 of the first 16 columns and of the others, or, transposed, its rows r, r + 8, r + 16 and r + 24.
template <bool kTransposed, int kRows, int kColumns, typename A, typename B>
inline void multiply_16x32x16(thread UnitTile<float, kRows, kColumns>& c, short m, short n, LeftPart<A> a, vec<B, 4> b0,
                              vec<B, 4> b1, vec<B, 4> b2, vec<B, 4> b3) {
  constexpr auto description = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, false, kTransposed, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<description, execution_simdgroup> unit;
  auto left = unit.template get_left_input_cooperative_tensor<A, B, float>();
  auto right = unit.template get_right_input_cooperative_tensor<A, B, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  UNROLL for (short e = 0; e < 4; e++) {
    left[e] = a.first[e];
    left[4 + e] = a.second[e];
    right[e] = b0[e];
    right[4 + e] = b1[e];
    right[8 + e] = b2[e];
    right[12 + e] = b3[e];
  }
  UNROLL for (short e = 0; e < 16; e++) sum[e] = pair(c, 2 * m + e % 8 / 4, 4 * n + e / 8 * 2 + e % 4 / 2)[e % 2];
  unit.run(left, right, sum);
  UNROLL for (short e = 0; e < 16; e++) pair(c, 2 * m + e % 8 / 4, 4 * n + e / 8 * 2 + e % 4 / 2)[e % 2] = sum[e];
}

template <typename T>
inline vec<T, 4> half_of(thread const T* chunk, short half_index) {
  return *(thread const vec<T, 4>*)(chunk + 4 * half_index);
}

// c[kM, kN] = a[kM, kColumns / kSlices] * transpose(slice of b[kN, kColumns]), where c is 0
template <typename Query, typename T, int kM, int kN, int kColumns, int kSlices>
inline void multiply_transposed(thread UnitTile<float, kM, kN>& c, thread Query& a,
                                UnitBlock<T, kN, kColumns, kSlices> b, Lane lane) {
  const LaneRows<T, kN> rows = b.lane_rows(lane);
  UNROLL for (short k = 0; k < kColumns / kSlices / 32; k++) {
    a.fetch(k);
    UNROLL for (short n = 0; n < kN / 32; n++) {
      alignas(16) T chunk[4][8];
      UNROLL for (short i = 0; i < 4; i++) load_chunk<8>(chunk[i], rows.at[4 * n + i] + 32 * k, b.rows.columns - 32 * k);
      UNROLL for (short e = 0; e < 2; e++)
        UNROLL for (short m = 0; m < kM / 16; m++)
          multiply_16x32x16<true>(c, m, n, a.left(m, 2 * k + e), half_of(chunk[0], e), half_of(chunk[1], e),
                                  half_of(chunk[2], e), half_of(chunk[3], e));
    }
  }
  a.apply_factor(c);
}

// c[kM, kN] += a[kM, kK] * slice of b[kK, kColumns]
template <typename T, int kM, int kN, int kK, int kColumns, int kSlices>
inline void multiply(thread UnitTile<float, kM, kN>& c, thread UnitTile<float, kM, kK>& a,
                     UnitBlock<T, kK, kColumns, kSlices> b, Lane lane) {
  const LaneRows<T, kK> rows = b.lane_rows(lane);
  UNROLL for (short k = 0; k < kK / 16; k++) {
    UNROLL for (short n = 0; n < kN / 32; n++) {
      alignas(16) T first[8];
      alignas(16) T second[8];
      load_chunk<8>(first, rows.at[2 * k] + 32 * n, b.rows.columns - 32 * n);
      load_chunk<8>(second, rows.at[2 * k + 1] + 32 * n, b.rows.columns - 32 * n);
      UNROLL for (short m = 0; m < kM / 16; m++)
        multiply_16x32x16<false>(c, m, n, a.left(m, k), half_of(first, 0), half_of(second, 0), half_of(first, 1),
                                 half_of(second, 1));
    }
  }
}

#include "attention_forward.h"  // it calls what the loader declares
using namespace metal;

// The host name is Tile.kernel's (planning/tiles.py).
#define INSTANTIATE(name, T, head_dim, value_dim, block_n, row_groups, slices, key_groups, loader, rows) \
  template [[host_name("attention_forward_" #name "_d" #head_dim "_v" #value_dim "_r" #rows "_n" #block_n "_g" \
                       #row_groups "x" #slices "x" #key_groups "_" #loader)]] [[kernel]] decltype(attention_forward< \
      T, head_dim, value_dim, rows, block_n, row_groups, slices, key_groups, Loader::loader>) \
      attention_forward<T, head_dim, value_dim, rows, block_n, row_groups, slices, key_groups, Loader::loader>;

#include "instances_unit.h"
#endif
""",
    "unit_check.metal": r"""// Whether a GPU's cooperative tensors are what unit.h takes them for, asked of itself. One SIMD group; products of
// 16 x 32 x 16, as in unit.h. launching/unit_check.py runs it before any kernel that uses the matrix unit.
#include <metal_stdlib>
#if __METAL_VERSION__ >= 400 && defined(__HAVE_TENSOR__) && __ENVIRONMENT_OS_VERSION_MIN_REQUIRED__ >= 260200
#include <MetalPerformancePrimitives/MetalPerformancePrimitives.h>
using namespace metal;

constant constexpr short kElements = 16;  // the most that a lane has of an operand
constant constexpr short kProduct = 16 * 32;

// row << 8 | column of each of a lane's elements; all ones for one that it lacks.
template <typename Tensor>
inline void write_places(device int* places, thread Tensor& tensor) {
  for (ushort i = 0; i < kElements; i++) {
    places[i] = -1;
    if (i < tensor.get_capacity()) {
      const auto at = tensor.get_multidimensional_index(i);
      places[i] = int(at[1]) << 8 | int(at[0]);
    }
  }
}

// c[16, 32] = a[16, 16] * b, through the layout that unit.h assumes: b is [16, 32], or with kTransposed [32, 16].
template <typename A, typename B, bool kTransposed>
inline void multiply_assumed(device float* c, device const int* a, device const int* b, ushort lane) {
  constexpr auto description = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, false, kTransposed, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<description, execution_simdgroup> unit;
  auto left = unit.template get_left_input_cooperative_tensor<A, B, float>();
  auto right = unit.template get_right_input_cooperative_tensor<A, B, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  const short row = (lane / 4 & 4) + lane / 2 % 4, column = ((lane / 4 & 2) + lane % 2) * 4;
#pragma clang loop unroll(full)
  for (short e = 0; e < 8; e++) left[e] = A(a[(row + e / 4 * 8) * 16 + column + e % 4]);
#pragma clang loop unroll(full)
  for (short e = 0; e < kElements; e++) {
    const short r = row + e % 8 / 4 * 8, w = column + e % 4, part = e / 8 * 16;
    right[e] = B(kTransposed ? b[(part + r) * 16 + w] : b[r * 32 + part + w]);
    sum[e] = 0;
  }
  unit.run(left, right, sum);
#pragma clang loop unroll(full)
  for (short e = 0; e < kElements; e++) c[(row + e % 8 / 4 * 8) * 32 + e / 8 * 16 + column + e % 4] = sum[e];
}

template <typename A, typename B>
inline void multiply_both(device float* products, device const int* a, device const int* b, ushort lane) {
  multiply_assumed<A, B, false>(products, a, b, lane);
  multiply_assumed<A, B, true>(products + kProduct, a, b, lane);
}

[[kernel]] void unit_check(device int* places [[buffer(0)]],  // [left, right, right transposed, destination][lane][16]
                           device int* capacities [[buffer(1)]],  // [4], of lane 0
                           device const int* a [[buffer(2)]],     // [16, 16]
                           device const int* b [[buffer(3)]],     // [16, 32] or [32, 16]
                           device float* products [[buffer(4)]],  // [half, bfloat, float * half, float * bfloat][2]
                           ushort lane [[thread_index_in_simdgroup]]) {
  constexpr auto plain = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, false, false, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  constexpr auto transposed = mpp::tensor_ops::matmul2d_descriptor(
      16, 32, 16, false, true, true, mpp::tensor_ops::matmul2d_descriptor::mode::multiply_accumulate);
  mpp::tensor_ops::matmul2d<plain, execution_simdgroup> unit;
  mpp::tensor_ops::matmul2d<transposed, execution_simdgroup> other;
  auto left = unit.template get_left_input_cooperative_tensor<half, half, float>();
  auto right = unit.template get_right_input_cooperative_tensor<half, half, float>();
  auto across = other.template get_right_input_cooperative_tensor<half, half, float>();
  auto sum = unit.template get_destination_cooperative_tensor<decltype(left), decltype(right), float>();
  device int* own = places + lane * kElements;
  write_places(own, left);
  write_places(own + 32 * kElements, right);
  write_places(own + 64 * kElements, across);
  write_places(own + 96 * kElements, sum);
  if (lane == 0) {
    capacities[0] = left.get_capacity();
    capacities[1] = right.get_capacity();
    capacities[2] = across.get_capacity();
    capacities[3] = sum.get_capacity();
  }
  multiply_both<half, half>(products, a, b, lane);
  multiply_both<bfloat, bfloat>(products + 2 * kProduct, a, b, lane);
  multiply_both<float, half>(products + 4 * kProduct, a, b, lane);
  multiply_both<float, bfloat>(products + 6 * kProduct, a, b, lane);
}
#endif
""",
}
