// What Python and the kernels say to each other: plain C, so that no header of torch or Python is needed.
#pragma once
#include <stdint.h>

enum { SECATEUR_FLOAT32 = 0, SECATEUR_BFLOAT16 = 1, SECATEUR_INT8 = 2 };
enum { SECATEUR_PLAIN = 0, SECATEUR_NEON = 1, SECATEUR_AVX2 = 2, SECATEUR_AVX512 = 3, SECATEUR_SETS = 4 };
enum { SECATEUR_FEW = 0, SECATEUR_MANY = 1 };
enum { SECATEUR_DONE = 0, SECATEUR_NO_MEMORY = 1, SECATEUR_NOT_HERE = 2, SECATEUR_TOO_SHORT = 3 };

// A weight [rows, columns]. 64 more values than it has may be read, so the memory of `values` is that much
// longer. Without `bits` the weight is dense, and has no `starts`.
struct SecateurWeight {
    const uint8_t* bits;    // [rows, ceil(columns / 8)], least significant first, or null
    const void* values;     // row by row, of the type `kind`
    const float* scales;    // [rows, ceil(columns / group)] for int8, else null
    const int64_t* starts;  // [rows + 1]: where the values of a row begin, or null
    // [rows, columns / 32], or null: only where every four columns have two values, and 64 divides the columns.
    // Bits 2 i and 2 i + 1 tell in which of its four columns value i of 32 columns stands.
    const uint32_t* codes;
    int64_t rows;
    int64_t columns;
    int64_t group;  // a multiple of 64 for int8, else 0
    int64_t kind;
    int64_t count;  // the elements in the memory of `values`
};

#ifdef __cplusplus
extern "C" {
#endif
// y [tokens, rows] = x [tokens, columns] times the weight transposed, in float32, by one of the two ways and
// one instruction set. The bits of y depend neither on `threads` nor on the values of other tokens.
int secateur_product(const struct SecateurWeight* weight, const float* x, int64_t tokens, float* y,
                     int64_t way, int64_t set, int64_t threads);
// 1 when this library and this CPU have the instruction set.
int secateur_has(int64_t set);
#ifdef __cplusplus
}
#endif
