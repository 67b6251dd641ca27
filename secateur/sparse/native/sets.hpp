// The kernels of each instruction set, as functions that product.cpp calls.
#pragma once
#include "abi.h"

constexpr int64_t BLOCK = 64;   // columns that are decoded at once: one word of bits
constexpr int64_t CHUNK = 256;  // rows whose sums stay in a cache while many tokens are multiplied
constexpr int64_t AHEAD = 1024;  // bytes of values that are fetched before they are needed

struct Kernels {
    int64_t lanes;  // floats of a vector
    // Puts one token's columns into the order of `few`, with zeros up to `width`, a multiple of 64.
    void (*arrange)(int64_t kind, const float* x, int64_t columns, int64_t width, float* out);
    void (*few)(const SecateurWeight&, int64_t first, int64_t last, const float* x, int64_t width,
                int64_t tokens, float* y);
    void (*many)(const SecateurWeight&, int64_t first, int64_t last, const float* x, int64_t width,
                 int64_t tile, float* out);
    // One token, of columns that are not arranged, and a weight with `codes`. Null where a set has no such kernel.
    void (*pairs)(const SecateurWeight&, int64_t first, int64_t last, const float* x, float* y);
    // out [columns, stride_out] = in [rows, stride_in] transposed, for 8 rows and 8 columns.
    void (*transpose)(const float* in, int64_t stride_in, float* out, int64_t stride_out);
};

extern const Kernels plain_kernels;
#if defined(__x86_64__)
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
#elif defined(__aarch64__)
extern const Kernels neon_kernels;
#endif
