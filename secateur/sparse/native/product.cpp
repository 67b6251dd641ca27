// Chooses the kernels of an instruction set, shares rows out to threads, and lays inputs out for the kernels.
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#include "sets.hpp"

namespace {

struct Span {
    int64_t first, last;
};

// The part of `count` things that is this thread's, in steps of `step`. Which thread makes a row changes no bit.
Span share(int64_t count, int64_t step, int64_t thread, int64_t threads) {
    const int64_t steps = (count + step - 1) / step;
    const int64_t first = steps * thread / threads * step, last = steps * (thread + 1) / threads * step;
    return {first < count ? first : count, last < count ? last : count};
}

bool finite(const float* x, int64_t count) {
    uint32_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, 4);
        found |= uint32_t((bits & 0x7f800000u) == 0x7f800000u);
    }
    return !found;
}

const Kernels* kernels_of(int64_t set) {
    if (set == SECATEUR_PLAIN) return &plain_kernels;
#if defined(__x86_64__)
    if (set == SECATEUR_AVX2 && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
        __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt"))
        return &avx2_kernels;
    if (set == SECATEUR_AVX512 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vbmi2") &&
        __builtin_cpu_supports("avx512vnni"))
        return &avx512_kernels;
#elif defined(__aarch64__)
    if (set == SECATEUR_NEON) return &neon_kernels;
#endif
    return nullptr;
}

// The memory of one call, in whole cache lines.
float* reserve(int64_t floats) {
    return static_cast<float*>(aligned_alloc(64, size_t((floats * 4 + 63) / 64 * 64)));
}

int few(const Kernels& kernels, const SecateurWeight& weight, const float* x, int64_t tokens, float* y,
        int threads) {
    if (tokens == 1 && weight.codes && kernels.pairs && finite(x, weight.columns)) {
#pragma omp parallel num_threads(threads) if (threads > 1)
        {
            const Span rows = share(weight.rows, 1, omp_get_thread_num(), omp_get_num_threads());
            kernels.pairs(weight, rows.first, rows.last, x, y);
        }
        return SECATEUR_DONE;
    }
    const int64_t width = (weight.columns + BLOCK - 1) / BLOCK * BLOCK;
    float* arranged = reserve(tokens * width);
    if (!arranged) return SECATEUR_NO_MEMORY;
    for (int64_t t = 0; t < tokens; t++)
        kernels.arrange(weight.kind, x + t * weight.columns, weight.columns, width, arranged + t * width);
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const Span rows = share(weight.rows, 1, omp_get_thread_num(), omp_get_num_threads());
        kernels.few(weight, rows.first, rows.last, arranged, width, tokens, y);
    }
    free(arranged);
    return SECATEUR_DONE;
}

// Puts `tokens` tokens into the lanes: out [width, tile], zeros where there is no token or column.
void lay_out(const Kernels& kernels, const float* x, int64_t columns, Span span, int64_t tokens, int64_t tile,
             float* out) {
    const int64_t even = span.last < columns ? span.last : columns / 8 * 8, full = tokens / 8 * 8;
    for (int64_t t = 0; t < full; t += 8)
        for (int64_t j = span.first; j < even; j += 8)
            kernels.transpose(x + t * columns + j, columns, out + j * tile + t, tile);
    for (int64_t j = span.first; j < span.last; j++) {
        const int64_t from = j < even ? full : 0;
        for (int64_t t = from; t < tile; t++)
            out[j * tile + t] = t < tokens && j < columns ? x[t * columns + j] : 0;
    }
}

// Puts the sums [rows, tile] of a chunk to their places in y [tokens, stride].
void lay_back(const Kernels& kernels, const float* sums, int64_t rows, int64_t tokens, int64_t tile, float* y,
              int64_t stride) {
    const int64_t even = rows / 8 * 8, full = tokens / 8 * 8;
    for (int64_t row = 0; row < even; row += 8)
        for (int64_t t = 0; t < full; t += 8)
            kernels.transpose(sums + row * tile + t, tile, y + t * stride + row, stride);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t t = row < even ? full : 0; t < tokens; t++) y[t * stride + row] = sums[row * tile + t];
}

int64_t tile_of(const Kernels& kernels, int64_t tokens) {
    int64_t vectors = 1;
    while (vectors < 8 && vectors * kernels.lanes < tokens) vectors *= 2;
    return vectors * kernels.lanes;
}

int many(const Kernels& kernels, const SecateurWeight& weight, const float* x, int64_t tokens, float* y,
         int threads) {
    const int64_t width = (weight.columns + BLOCK - 1) / BLOCK * BLOCK, widest = tile_of(kernels, tokens);
    float* laid = reserve(width * widest + threads * CHUNK * widest);
    char* odd = static_cast<char*>(malloc(size_t(tokens)));
    if (!laid || !odd) {
        free(laid);
        free(odd);
        return SECATEUR_NO_MEMORY;
    }
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const int64_t thread = omp_get_thread_num(), of = omp_get_num_threads();
        float* sums = laid + width * widest + thread * CHUNK * widest;
        const Span columns = share(width, BLOCK, thread, of), rows = share(weight.rows, 8, thread, of);
        const Span checked = share(tokens, 1, thread, of);
        for (int64_t t = checked.first; t < checked.last; t++)
            odd[t] = !finite(x + t * weight.columns, weight.columns);
        for (int64_t t = 0; t < tokens; t += widest) {
            const int64_t now = tokens - t < widest ? tokens - t : widest, tile = tile_of(kernels, now);
            lay_out(kernels, x + t * weight.columns, weight.columns, columns, now, tile, laid);
#pragma omp barrier
            for (int64_t row = rows.first; row < rows.last; row += CHUNK) {
                const int64_t end = row + CHUNK < rows.last ? row + CHUNK : rows.last;
                kernels.many(weight, row, end, laid, width, tile, sums);
                lay_back(kernels, sums, end - row, now, tile, y + t * weight.rows + row, weight.rows);
            }
#pragma omp barrier
        }
    }
    // Zeros that are skipped would hide an infinity or NaN of x: such tokens are multiplied again, zeros too.
    int ended = SECATEUR_DONE;
    for (int64_t t = 0; t < tokens && ended == SECATEUR_DONE; t++)
        if (odd[t]) ended = few(kernels, weight, x + t * weight.columns, 1, y + t * weight.rows, threads);
    free(laid);
    free(odd);
    return ended;
}

}  // namespace

extern "C" int secateur_has(int64_t set) { return kernels_of(set) != nullptr; }

extern "C" int secateur_product(const SecateurWeight* weight, const float* x, int64_t tokens, float* y,
                                int64_t way, int64_t set, int64_t threads) {
    const Kernels* kernels = kernels_of(set);
    if (!kernels) return SECATEUR_NOT_HERE;
    const int64_t used = weight->bits ? weight->starts[weight->rows] : weight->rows * weight->columns;
    if (used + BLOCK > weight->count) return SECATEUR_TOO_SHORT;
    if (tokens == 0) return SECATEUR_DONE;
    const int team = threads < 1 ? 1 : int(threads < weight->rows ? threads : weight->rows);
    return way == SECATEUR_FEW ? few(*kernels, *weight, x, tokens, y, team)
                               : many(*kernels, *weight, x, tokens, y, team);
}
