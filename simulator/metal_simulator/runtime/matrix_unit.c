// The matrix unit: which element of a matrix a lane holds at an index, products of cooperative tensors, and sums of rows.
// Public kernels know two lane layouts: of family 10, and of the families before it. The third is none of any GPU, so only
// a kernel that asks for coordinates is right with it. With deployment targets below macOS 26.2, left inputs are taken
// for destinations, whatever the coordinates say.
#include "runtime.h"

#include <math.h>
#include <string.h>
#include <sys/mman.h>

enum { LEFT = __METAL_UNIT_LEFT, RIGHT = __METAL_UNIT_RIGHT, DESTINATION = __METAL_UNIT_DESTINATION, OPERANDS };
enum { SUM_OF_ROW, MAXIMUM_OF_ROW, MINIMUM_OF_ROW };
enum { SIDE = 64, MOST_ELEMENTS = SIDE * SIDE / LANES, CHUNK = 16, TABLES = 8 };

typedef struct { uint32_t row, column; } Place;

// Index in a row-major matrix of every element of every lane.
typedef struct {
  uint32_t matrix, flags, layout, known;
  uint16_t at[LANES][MOST_ELEMENTS];
} Table;

struct MatrixUnit {
  unsigned char given[MAX_SIMDGROUPS][OPERANDS][LANES][MOST_ELEMENTS * sizeof(float)];
  float a[SIDE * SIDE], b[SIDE * SIDE], c[SIDE * SIDE], d[SIDE * SIDE];
  Table tables[TABLES];
  uint32_t next_table;
};

struct MatrixUnit* metal_matrix_unit_open(void) {
  void* memory =
      mmap(NULL, sizeof(struct MatrixUnit), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return memory == MAP_FAILED ? NULL : memory;
}

static uint32_t rows_of(uint32_t matrix) { return matrix & 255; }
static uint32_t columns_of(uint32_t matrix) { return matrix >> 8 & 255; }
static uint32_t elements_of(uint32_t matrix) { return rows_of(matrix) * columns_of(matrix) / LANES; }
static uint32_t transposed(uint32_t matrix) { return columns_of(matrix) | rows_of(matrix) << 8; }

static uint32_t reversed(uint32_t lane) {
  uint32_t r = 0;
  for (int i = 0; i < 5; i++) r |= (lane >> i & 1) << (4 - i);
  return r;
}

// As in an 8x8 fragment.
static uint32_t lane_row(uint32_t lane) { return (lane / 4 & 4) + lane / 2 % 4; }

// Parts of 16 x 16 one after the other; of each two rows, of each four columns next to each other.
static Place apple10(uint32_t matrix, uint32_t lane, uint32_t index) {
  uint32_t across = columns_of(matrix) / 16, part = index / 8, e = index % 8;
  return (Place){
      part / across * 16 + e / 4 * 8 + lane_row(lane), part % across * 16 + 4 * ((lane / 4 & 2) + lane % 2) + e % 4};
}

// Two pairs of columns eight apart; the first rows of two neighbouring parts come before their second ones.
static Place older(uint32_t matrix, uint32_t flags, uint32_t lane, uint32_t index) {
  if (flags == (RIGHT | __METAL_UNIT_TRANSPOSED)) {  // by the rows and columns of the product, not of what is stored
    Place p = older(transposed(matrix), RIGHT, lane, index);
    return (Place){p.column, p.row};
  }
  static const uint32_t apart[4] = {0, 1, 8, 9};
  uint32_t across = columns_of(matrix) / 16, part = index / 8, e = index % 8;
  if (across == 2) part = index / 16 * 2 + (index >> 2 & 1), e = (index % 16 >> 3) << 2 | (index & 3);
  return (Place){part / across * 16 + e / 4 * 8 + lane_row(lane),
                 part % across * 16 + 2 * (lane & 1) + 4 * (lane >> 3 & 1) + apart[e % 4]};
}

static Place invented(uint32_t matrix, uint32_t lane, uint32_t index) {
  uint32_t at = reversed(lane) * elements_of(matrix) + index;
  return (Place){at / columns_of(matrix), at % columns_of(matrix)};
}

static Place place(uint32_t layout, uint32_t matrix, uint32_t flags, uint32_t lane, uint32_t index) {
  if (layout == LAYOUT_OLDER) return older(matrix, flags, lane, index);
  return layout == LAYOUT_INVENTED ? invented(matrix, lane, index) : apple10(matrix, lane, index);
}

static uint32_t layout_now(void) { return metal_current->worker->launch->request->layout; }

uint32_t metal_tensor_place(uint32_t matrix, uint32_t flags, uint32_t index) {
  Place p = place(layout_now(), matrix, flags, metal_current->lane, index);
  return p.row << 16 | p.column;
}

// The rows of a destination that a lane has elements of, in the order of their first one.
static uint32_t rows_of_lane(uint32_t matrix, uint32_t lane, uint32_t* found) {
  uint32_t count = 0;
  for (uint32_t i = 0; i < elements_of(matrix); i++) {
    uint32_t row = place(layout_now(), matrix, DESTINATION, lane, i).row, j = 0;
    while (j < count && found[j] != row) j++;
    if (j == count) found[count++] = row;
  }
  return count;
}

uint32_t metal_tensor_row(uint32_t matrix, uint32_t slot) {
  uint32_t found[SIDE], count = rows_of_lane(matrix, metal_current->lane, found);
  return slot < count ? found[slot] : UINT32_MAX;
}

uint32_t metal_tensor_slot(uint32_t matrix, uint32_t index) {
  uint32_t found[SIDE], row = place(layout_now(), matrix, DESTINATION, metal_current->lane, index).row, j = 0;
  rows_of_lane(matrix, metal_current->lane, found);
  while (found[j] != row) j++;
  return j;
}

_Noreturn void metal_tensor_outside(uint32_t index, uint32_t capacity) {
  Worker* w = metal_current->worker;
  w->sites[0] = __builtin_return_address(0);
  metal_fail(w, "thread %u: element %u of a cooperative tensor whose capacity is %u",
             metal_current->context.thread_index, index, capacity);
}

typedef uint32_t Chunk __attribute__((vector_size(CHUNK)));

static unsigned char* given(Thread* t, uint32_t operand, uint32_t lane) {
  return t->worker->unit->given[t->simdgroup - t->worker->simdgroups][operand][lane];
}

void metal_tensor_give(uint32_t operand, uint32_t chunk, Chunk elements) {
  memcpy(given(metal_current, operand, metal_current->lane) + chunk * CHUNK, &elements, CHUNK);
}

Chunk metal_tensor_take(uint32_t operand, uint32_t chunk) {
  Chunk elements;
  memcpy(&elements, given(metal_current, operand, metal_current->lane) + chunk * CHUNK, CHUNK);
  return elements;
}

enum { IN_MEMORY = 1 << 16, AS_DESTINATION = 1 << 17 };  // flags of tables; the second has a product's columns above

// Of a left input that is taken for a destination of so many columns, all columns of a row come before those of the next
// one: its second rows are taken for columns that it does not have.
static Place as_destination(uint32_t columns, uint32_t lane, uint32_t index) {
  uint32_t parts = columns / 16, quad = index / 4;
  return (Place){quad / parts * 8 + lane_row(lane), quad % parts * 16 + 4 * ((lane / 4 & 2) + lane % 2) + index % 4};
}

static uint16_t position(uint32_t layout, uint32_t matrix, uint32_t flags, uint32_t lane, uint32_t index) {
  uint32_t columns = columns_of(matrix);
  if (flags & IN_MEMORY) return index * LANES + LANES - 1 - lane;
  if (!(flags & AS_DESTINATION)) {
    Place p = place(layout, matrix, flags, lane, index);
    return p.row * columns + p.column;
  }
  Place p = as_destination(flags >> 24, lane, index);
  return p.column < columns && p.row < rows_of(matrix) ? p.row * columns + p.column : UINT16_MAX;
}

static const Table* table(struct MatrixUnit* unit, uint32_t matrix, uint32_t flags) {
  uint32_t layout = layout_now();
  for (int i = 0; i < TABLES; i++) {
    const Table* t = &unit->tables[i];
    if (t->known && t->matrix == matrix && t->flags == flags && t->layout == layout) return t;
  }
  Table* t = &unit->tables[unit->next_table++ % TABLES];
  *t = (Table){.matrix = matrix, .flags = flags, .layout = layout, .known = 1};
  for (uint32_t lane = 0; lane < LANES; lane++)
    for (uint32_t i = 0; i < elements_of(matrix); i++) t->at[lane][i] = position(layout, matrix, flags, lane, i);
  return t;
}

// The unit may cut fp32 to 10 bits of mantissa, and does.
static float decoded(const unsigned char* elements, uint32_t type, uint32_t index, int cuts) {
  if (type == __METAL_UNIT_HALF) return ((const _Float16*)elements)[index];
  uint32_t bits;
  float value;
  if (type == __METAL_UNIT_BFLOAT) bits = (uint32_t)((const uint16_t*)elements)[index] << 16;
  else bits = ((const uint32_t*)elements)[index] & (cuts ? 0xFFFFE000u : UINT32_MAX);
  memcpy(&value, &bits, sizeof value);
  return value;
}

// What the lanes gave of an operand, row by row; what none gave is unset.
static void gather(Simdgroup* s, uint32_t operand, const Table* places, uint32_t type, int cuts, float* to) {
  uint32_t elements = elements_of(places->matrix);
  if (places->flags & AS_DESTINATION) memset(to, 0xFF, elements * LANES * sizeof *to);
  for (uint32_t lane = 0; lane < LANES; lane++) {
    const unsigned char* from = given(&s->threads[lane], operand, lane);
    for (uint32_t i = 0; i < elements; i++)
      if (places->at[lane][i] != UINT16_MAX) to[places->at[lane][i]] = decoded(from, type, i, cuts);
  }
}

static void turn(float* matrix, uint32_t rows, uint32_t columns) {
  float turned[SIDE * SIDE];
  for (uint32_t i = 0; i < rows; i++)
    for (uint32_t j = 0; j < columns; j++) turned[j * rows + i] = matrix[i * columns + j];
  memcpy(matrix, turned, rows * columns * sizeof *matrix);
}

static Table const* destination(struct MatrixUnit* unit, uint32_t m, uint32_t n) {
  return table(unit, m | n << 8, DESTINATION);
}

static int makes_nan(const struct MatrixUnit* unit, uint32_t n, uint32_t k, uint32_t at) {
  float c = unit->c[at];
  if (unit->d[at] == unit->d[at]) return 0;
  if (c != c) return metal_is_unset(c);
  for (uint32_t i = 0; i < k; i++) {
    float a = unit->a[at / n * k + i], b = unit->b[i * n + at % n];
    if (a != a || b != b) return metal_is_unset(a) || metal_is_unset(b);
  }
  return 1;
}

void metal_multiply_tensors(Simdgroup* s) {
  Worker* w = s->threads[0].worker;
  struct MatrixUnit* unit = w->unit;
  uint32_t shape = s->parameter[0], flags = s->in[0], layout = layout_now();
  uint32_t m = shape & 255, n = shape >> 8 & 255, k = shape >> 16 & 255;
  uint32_t left = flags & __METAL_UNIT_LEFT_TRANSPOSED ? k | m << 8 : m | k << 8;
  uint32_t right = flags & __METAL_UNIT_RIGHT_TRANSPOSED ? n | k << 8 : k | n << 8;
  uint32_t of_left = LEFT | (flags & __METAL_UNIT_LEFT_TRANSPOSED ? __METAL_UNIT_TRANSPOSED : 0);
  uint32_t of_right = RIGHT | (flags & __METAL_UNIT_RIGHT_TRANSPOSED ? __METAL_UNIT_TRANSPOSED : 0);
  int old = flags & __METAL_UNIT_OLD_TARGET || layout == LAYOUT_OLD_TARGET, cuts = !!(flags & __METAL_UNIT_RELAXED);
  if (flags & __METAL_UNIT_LEFT_IN_MEMORY) of_left = IN_MEMORY;
  else if (old) of_left |= AS_DESTINATION | n << 24;
  if (flags & __METAL_UNIT_RIGHT_IN_MEMORY) of_right = IN_MEMORY;
  gather(s, LEFT, table(unit, left, of_left), flags >> __METAL_UNIT_LEFT_TYPE & 3, cuts, unit->a);
  gather(s, RIGHT, table(unit, right, of_right), flags >> __METAL_UNIT_RIGHT_TYPE & 3, cuts, unit->b);
  gather(s, DESTINATION, destination(unit, m, n), __METAL_UNIT_FLOAT, 0, unit->c);
  if (flags & __METAL_UNIT_LEFT_TRANSPOSED) turn(unit->a, k, m);
  if (flags & __METAL_UNIT_RIGHT_TRANSPOSED) turn(unit->b, n, k);
  memcpy(unit->d, unit->c, m * n * sizeof *unit->d);
  for (uint32_t i = 0; i < m; i++)
    for (uint32_t l = 0; l < k; l++)
      for (uint32_t j = 0; j < n; j++) unit->d[i * n + j] += unit->a[i * k + l] * unit->b[l * n + j];
  const Table* places = destination(unit, m, n);
  for (uint32_t lane = 0; lane < LANES; lane++) {
    float* to = (float*)given(&s->threads[lane], DESTINATION, lane);
    int made = 0;
    for (uint32_t i = 0; i < m * n / LANES; i++) {
      to[i] = unit->d[places->at[lane][i]];
      if (w->launch->request->nan) made |= makes_nan(unit, n, k, places->at[lane][i]);
    }
    if (made) metal_nan_found(&s->threads[lane], s->site);
  }
}

// The reduced rows of a lane take the place of its left operand.
void metal_reduce_tensor(Simdgroup* s) {
  uint32_t matrix = s->parameter[0], operation = s->in[0], columns = columns_of(matrix);
  float identity, result[SIDE];
  memcpy(&identity, &s->fill[0], sizeof identity);
  gather(s, DESTINATION, table(s->threads[0].worker->unit, matrix, DESTINATION), __METAL_UNIT_FLOAT, 0,
         s->threads[0].worker->unit->c);
  for (uint32_t row = 0; row < rows_of(matrix); row++) {
    float r = identity;
    for (uint32_t column = 0; column < columns; column++) {
      float x = s->threads[0].worker->unit->c[row * columns + column];
      r = operation == SUM_OF_ROW ? r + x : operation == MAXIMUM_OF_ROW ? fmaxf(r, x) : fminf(r, x);
    }
    result[row] = r;
  }
  for (uint32_t lane = 0; lane < LANES; lane++) {
    uint32_t found[SIDE], count = rows_of_lane(matrix, lane, found);
    float* to = (float*)given(&s->threads[lane], LEFT, lane);
    for (uint32_t i = 0; i < rows_of(matrix) / 8; i++) to[i] = i < count ? result[found[i]] : NAN;
  }
}
