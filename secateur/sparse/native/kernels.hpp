// The kernels, for any instruction set. A file per set defines `V`, its vectors, and includes this one.
//
// V has: F, a vector of LANES floats; zero, load, store, set1, fma (a * b + c), add, sum;
//        SUMS, the sums per token that run side by side; ROWS, the rows that are multiplied at once with one
//        token; SPAN, the blocks of a row that 4 vectors of tokens take at once where they have few values;
//        decode<kind>(mask, values, w), which puts the next values at the set bits of `mask`, zeros elsewhere,
//        into 64 / LANES vectors and gives the values after them; take<kind>(values, w), the same for 64 dense
//        values; widen<kind>(values, count, scale, out), which makes at least `count` floats and at most 64;
//        place(kind, column), where `decode` puts a column.
//
// Everything here has internal linkage: these functions are compiled once per set, and must not be merged.
// For the same reason nothing of the C++ library is used.
#pragma once
#include <string.h>

#include "sets.hpp"

namespace {

template <int KIND>
struct Stored;
template <>
struct Stored<SECATEUR_FLOAT32> { using Type = float; };
template <>
struct Stored<SECATEUR_BFLOAT16> { using Type = uint16_t; };
template <>
struct Stored<SECATEUR_INT8> { using Type = int8_t; };

constexpr int VECTORS = BLOCK / V::LANES;
constexpr int64_t FEW_VALUES = 9;  // of a block, on average
constexpr int64_t SECOND_CACHE = 1 << 20;  // bytes; what is larger comes from farther away

inline float widened(float value) { return value; }
inline float widened(int8_t value) { return value; }
inline float widened(uint16_t value) {
    uint32_t bits = uint32_t(value) << 16;
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

// The bits of 64 columns of a row, or of those that are left.
inline uint64_t mask_of(const uint8_t* row, int64_t bytes, int64_t block) {
    uint64_t mask = 0;
    int64_t left = bytes - 8 * block;
    if (left >= 8) memcpy(&mask, row + 8 * block, 8);
    else memcpy(&mask, row + 8 * block, size_t(left));
    return mask;
}

inline uint64_t all_of(int64_t columns) { return columns >= BLOCK ? ~0ull : (1ull << columns) - 1; }

// One row times TOKENS tokens. x [TOKENS, width] is arranged, with zeros after the last column. Zeros of the
// weight are multiplied too, as in a dense product.
template <int KIND, bool DENSE, int TOKENS>
void few_row(const SecateurWeight& weight, int64_t row, const float* x, int64_t width, float* y,
             int64_t y_stride) {
    using Value = typename Stored<KIND>::Type;
    const int64_t blocks = width / BLOCK, whole = weight.columns / BLOCK, bytes = (weight.columns + 7) / 8;
    const uint8_t* bits = DENSE ? nullptr : weight.bits + row * bytes;
    const Value* values = static_cast<const Value*>(weight.values) +
                          (DENSE ? row * weight.columns : weight.starts[row]);
    const int64_t per_group = KIND == SECATEUR_INT8 ? weight.group / BLOCK : blocks;
    const float* scale = KIND == SECATEUR_INT8 ? weight.scales + row * ((blocks + per_group - 1) / per_group)
                                               : nullptr;
    typename V::F sums[TOKENS][V::SUMS], scaled[TOKENS];
    for (int t = 0; t < TOKENS; t++) {
        scaled[t] = V::zero();
        for (int s = 0; s < V::SUMS; s++) sums[t][s] = V::zero();
    }
    for (int64_t begin = 0; begin < blocks; begin += per_group) {
        const int64_t end = begin + per_group < blocks ? begin + per_group : blocks;
        for (int64_t block = begin; block < end; block++) {
            typename V::F w[VECTORS];
            if (DENSE && block < whole) {
                for (size_t at = 0; at < sizeof(Value) * BLOCK; at += 64)
                    __builtin_prefetch(reinterpret_cast<const char*>(values) + AHEAD + at);
                values = V::template take<KIND>(values, w);
            } else {
                uint64_t mask;
                if (DENSE) mask = all_of(weight.columns - block * BLOCK);
                else if (block < whole) memcpy(&mask, bits + 8 * block, 8);
                else mask = mask_of(bits, bytes, block);
                __builtin_prefetch(reinterpret_cast<const char*>(values) + AHEAD);
                values = V::template decode<KIND>(mask, values, w);
            }
            const float* at = x + block * BLOCK;
#pragma GCC unroll 16
            for (int k = 0; k < VECTORS; k++) {
#pragma GCC unroll 4
                for (int t = 0; t < TOKENS; t++)
                    sums[t][k % V::SUMS] =
                        V::fma(w[k], V::load(at + t * width + k * V::LANES), sums[t][k % V::SUMS]);
            }
        }
        if (KIND == SECATEUR_INT8) {
            typename V::F factor = V::set1(*scale++);
            for (int t = 0; t < TOKENS; t++) {
                typename V::F sum = sums[t][0];
                for (int s = 1; s < V::SUMS; s++) sum = V::add(sum, sums[t][s]);
                scaled[t] = V::fma(sum, factor, scaled[t]);
                for (int s = 0; s < V::SUMS; s++) sums[t][s] = V::zero();
            }
        }
    }
    for (int t = 0; t < TOKENS; t++) {
        typename V::F sum = scaled[t];
        if (KIND != SECATEUR_INT8)
            for (int s = 0; s < V::SUMS; s++) sum = V::add(sum, sums[t][s]);
        y[t * y_stride + row] = V::sum(sum);
    }
}

// ROWS rows times one token, where 64 divides the columns. The rows share what they load of x, and the sum of
// each is made in the order of few_row.
template <int KIND, bool DENSE>
void rows_at_once(const SecateurWeight& weight, int64_t row, const float* x, float* y) {
    using Value = typename Stored<KIND>::Type;
    constexpr int ROWS = V::ROWS, SUMS = V::SUMS;
    const int64_t blocks = weight.columns / BLOCK, bytes = weight.columns / 8;
    const int64_t per_group = KIND == SECATEUR_INT8 ? weight.group / BLOCK : blocks;
    const int64_t groups = (blocks + per_group - 1) / per_group;
    const float* scale = KIND == SECATEUR_INT8 ? weight.scales + row * groups : nullptr;
    const uint8_t* bits[ROWS];
    const Value* values[ROWS];
    typename V::F sums[ROWS][SUMS], scaled[ROWS];
    for (int r = 0; r < ROWS; r++) {
        bits[r] = DENSE ? nullptr : weight.bits + (row + r) * bytes;
        values[r] = static_cast<const Value*>(weight.values) +
                    (DENSE ? (row + r) * weight.columns : weight.starts[row + r]);
        scaled[r] = V::zero();
        for (int s = 0; s < SUMS; s++) sums[r][s] = V::zero();
    }
    for (int64_t begin = 0; begin < blocks; begin += per_group, scale++) {
        const int64_t end = begin + per_group < blocks ? begin + per_group : blocks;
        for (int64_t block = begin; block < end; block++) {
            typename V::F xs[VECTORS];
            for (int k = 0; k < VECTORS; k++) xs[k] = V::load(x + block * BLOCK + k * V::LANES);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                typename V::F w[VECTORS];
                if (DENSE) {
                    for (size_t at = 0; at < sizeof(Value) * BLOCK; at += 64)
                        __builtin_prefetch(reinterpret_cast<const char*>(values[r]) + AHEAD + at);
                    values[r] = V::template take<KIND>(values[r], w);
                } else {
                    uint64_t mask;
                    memcpy(&mask, bits[r] + 8 * block, 8);
                    __builtin_prefetch(reinterpret_cast<const char*>(values[r]) + AHEAD);
                    values[r] = V::template decode<KIND>(mask, values[r], w);
                }
#pragma GCC unroll 16
                for (int k = 0; k < VECTORS; k++) sums[r][k % SUMS] = V::fma(w[k], xs[k], sums[r][k % SUMS]);
            }
        }
        if (KIND == SECATEUR_INT8) {
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                typename V::F sum = sums[r][0];
                for (int s = 1; s < SUMS; s++) sum = V::add(sum, sums[r][s]);
                scaled[r] = V::fma(sum, V::set1(scale[r * groups]), scaled[r]);
                for (int s = 0; s < SUMS; s++) sums[r][s] = V::zero();
            }
        }
    }
    for (int r = 0; r < ROWS; r++) {
        typename V::F sum = scaled[r];
        if (KIND != SECATEUR_INT8)
            for (int s = 0; s < SUMS; s++) sum = V::add(sum, sums[r][s]);
        y[row + r] = V::sum(sum);
    }
}

template <int KIND, bool DENSE>
void few_rows(const SecateurWeight& weight, int64_t first, int64_t last, const float* x, int64_t width,
              int64_t tokens, float* y) {
    const int64_t stride = weight.rows;
    int64_t row = first;
    // To expand float32 values of four rows at once takes more registers for masks than there are.
    constexpr bool together = V::ROWS > 1 && (DENSE || KIND != SECATEUR_FLOAT32);
    // From memory, one row after the other is one stream, which the CPU fetches ahead; several at once are not.
    const int64_t values = DENSE ? (last - first) * weight.columns : weight.starts[last] - weight.starts[first];
    const bool near = values * int64_t(sizeof(typename Stored<KIND>::Type)) <= SECOND_CACHE;
    if (together && near && tokens == 1 && width == weight.columns)
        for (; row + V::ROWS <= last; row += V::ROWS) rows_at_once<KIND, DENSE>(weight, row, x, y);
    for (; row < last; row++) {
        for (int64_t t = 0; t < tokens; t += 4) {
            const float* xt = x + t * width;
            float* yt = y + t * stride;
            switch (tokens - t) {
                case 1: few_row<KIND, DENSE, 1>(weight, row, xt, width, yt, stride); break;
                case 2: few_row<KIND, DENSE, 2>(weight, row, xt, width, yt, stride); break;
                case 3: few_row<KIND, DENSE, 3>(weight, row, xt, width, yt, stride); break;
                default: few_row<KIND, DENSE, 4>(weight, row, xt, width, yt, stride);
            }
        }
    }
}

// Rows times a tile of tokens, which lie in the lanes of N vectors: x [width, N * LANES]. Only values are
// multiplied. Blocks of columns come outermost, so that a block of x stays in the nearest cache for all rows
// of a chunk, whose sums lie in `out` [CHUNK, N * LANES]. SPAN blocks are one visit to a row: where a block has
// few values, to load and store the sums takes longer than to multiply.
template <int KIND, bool DENSE, int N, int SPAN>
void many_chunk(const SecateurWeight& weight, int64_t first, int64_t last, const float* x, int64_t width,
                float* out) {
    using Value = typename Stored<KIND>::Type;
    constexpr int64_t TILE = N * V::LANES;
    // Sums side by side hide the latency of fma, where there are enough values for them.
    constexpr int SETS = N >= 8 || SPAN > 1 ? 1 : N >= 4 ? 2 : 4;
    const int64_t bytes = (weight.columns + 7) / 8, blocks = width / BLOCK;
    const Value* cursors[CHUNK];
    for (int64_t row = first; row < last; row++)
        cursors[row - first] = static_cast<const Value*>(weight.values) +
                               (DENSE ? row * weight.columns : weight.starts[row]);
    for (int64_t i = 0; i < (last - first) * TILE; i += V::LANES) V::store(out + i, V::zero());
    for (int64_t begin = 0; begin < blocks; begin += SPAN) {
        for (int64_t row = first; row < last; row++) {
            const Value* values = cursors[row - first];
            float* sums_of_row = out + (row - first) * TILE;
            typename V::F sums[SETS][N];
            for (int k = 0; k < N; k++) {
                sums[0][k] = V::load(sums_of_row + k * V::LANES);
                for (int s = 1; s < SETS; s++) sums[s][k] = V::zero();
            }
            for (int64_t block = begin; block < begin + SPAN && (SPAN == 1 || block < blocks); block++) {
                const float* xb = x + block * BLOCK * TILE;
                uint64_t mask = DENSE ? all_of(weight.columns - block * BLOCK)
                                      : mask_of(weight.bits + row * bytes, bytes, block);
                const int count = __builtin_popcountll(mask);
                __builtin_prefetch(values + count);
                __builtin_prefetch(reinterpret_cast<const char*>(values + count) + 64);
                float scale = 1;
                if (KIND == SECATEUR_INT8) {
                    const int64_t groups = (weight.columns + weight.group - 1) / weight.group;
                    scale = weight.scales[row * groups + block * BLOCK / weight.group];
                }
                float wide[BLOCK];
                const float* w = V::template widen<KIND>(values, count, scale, wide);
                values += count;
                int i = 0;
                for (; i + SETS <= count; i += SETS) {
#pragma GCC unroll 4
                    for (int s = 0; s < SETS; s++) {
                        const float* xj = xb + __builtin_ctzll(mask) * TILE;
                        mask &= mask - 1;
                        typename V::F value = V::set1(w[i + s]);
#pragma GCC unroll 8
                        for (int k = 0; k < N; k++)
                            sums[s][k] = V::fma(value, V::load(xj + k * V::LANES), sums[s][k]);
                    }
                }
                for (; i < count; i++) {
                    const float* xj = xb + __builtin_ctzll(mask) * TILE;
                    mask &= mask - 1;
                    typename V::F value = V::set1(w[i]);
#pragma GCC unroll 8
                    for (int k = 0; k < N; k++)
                        sums[0][k] = V::fma(value, V::load(xj + k * V::LANES), sums[0][k]);
                }
            }
            cursors[row - first] = values;
            for (int k = 0; k < N; k++) {
                for (int s = 1; s < SETS; s++) sums[0][k] = V::add(sums[0][k], sums[s][k]);
                V::store(sums_of_row + k * V::LANES, sums[0][k]);
            }
        }
    }
}

template <int KIND, bool DENSE>
void many_of(const SecateurWeight& weight, int64_t first, int64_t last, const float* x, int64_t width,
             int64_t tile, float* out) {
    const bool rare = !DENSE && width * tile * int64_t(sizeof(float)) > SECOND_CACHE &&
                      weight.starts[weight.rows] * BLOCK < FEW_VALUES * weight.rows * weight.columns;
    switch (tile / V::LANES) {
        case 1: return many_chunk<KIND, DENSE, 1, 1>(weight, first, last, x, width, out);
        case 2: return many_chunk<KIND, DENSE, 2, 1>(weight, first, last, x, width, out);
        case 4:
            if (rare) return many_chunk<KIND, DENSE, 4, V::SPAN>(weight, first, last, x, width, out);
            return many_chunk<KIND, DENSE, 4, 1>(weight, first, last, x, width, out);
        default: return many_chunk<KIND, DENSE, 8, 1>(weight, first, last, x, width, out);
    }
}

void arrange(int64_t kind, const float* x, int64_t columns, int64_t width, float* out) {
    for (int64_t block = 0; block < width; block += BLOCK)
        for (int64_t j = 0; j < BLOCK; j++)
            out[block + V::place(kind, int(j))] = block + j < columns ? x[block + j] : 0;
}

void few(const SecateurWeight& weight, int64_t first, int64_t last, const float* x, int64_t width,
         int64_t tokens, float* y) {
    switch (weight.kind * 2 + (weight.bits == nullptr)) {
        case 0: return few_rows<SECATEUR_FLOAT32, false>(weight, first, last, x, width, tokens, y);
        case 1: return few_rows<SECATEUR_FLOAT32, true>(weight, first, last, x, width, tokens, y);
        case 2: return few_rows<SECATEUR_BFLOAT16, false>(weight, first, last, x, width, tokens, y);
        case 3: return few_rows<SECATEUR_BFLOAT16, true>(weight, first, last, x, width, tokens, y);
        case 4: return few_rows<SECATEUR_INT8, false>(weight, first, last, x, width, tokens, y);
        default: return few_rows<SECATEUR_INT8, true>(weight, first, last, x, width, tokens, y);
    }
}

void many(const SecateurWeight& weight, int64_t first, int64_t last, const float* x, int64_t width,
          int64_t tile, float* out) {
    switch (weight.kind * 2 + (weight.bits == nullptr)) {
        case 0: return many_of<SECATEUR_FLOAT32, false>(weight, first, last, x, width, tile, out);
        case 1: return many_of<SECATEUR_FLOAT32, true>(weight, first, last, x, width, tile, out);
        case 2: return many_of<SECATEUR_BFLOAT16, false>(weight, first, last, x, width, tile, out);
        case 3: return many_of<SECATEUR_BFLOAT16, true>(weight, first, last, x, width, tile, out);
        case 4: return many_of<SECATEUR_INT8, false>(weight, first, last, x, width, tile, out);
        default: return many_of<SECATEUR_INT8, true>(weight, first, last, x, width, tile, out);
    }
}

}  // namespace
