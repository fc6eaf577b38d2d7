// Conversion to bfloat, for compilers that call a function for it which old compiler runtimes do not have.
#include <stdint.h>
#include <string.h>

__bf16 __truncsfbf2(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) bits |= 0x400000u;            // stays NaN
  else bits += 0x7FFFu + (bits >> 16 & 1);  // to nearest, ties to even
  uint16_t high = bits >> 16;
  __bf16 result;
  memcpy(&result, &high, 2);
  return result;
}
