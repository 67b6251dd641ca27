// Kernels for AVX2 with FMA: x86 since about 2013.
#if defined(__x86_64__)
#include <immintrin.h>

#include "abi.h"
#include "places.hpp"

namespace {

struct V {
    static constexpr int LANES = 8, SUMS = 2, ROWS = 1, SPAN = 1;
    using F = __m256;
    static F zero() { return _mm256_setzero_ps(); }
    static F set1(float value) { return _mm256_set1_ps(value); }
    static F load(const float* from) { return _mm256_loadu_ps(from); }
    static void store(float* to, F a) { _mm256_storeu_ps(to, a); }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static float sum(F a) {
        __m128 half = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
        half = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    }
    static int place(int64_t, int column) { return column; }
    static __m128i low(const void* from) { return _mm_loadl_epi64(static_cast<const __m128i*>(from)); }
    static __m128i full(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
    static F of_halves(__m128i halves) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
    }
    static F of_bytes(__m128i bytes) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)); }
    // The next values of 8 columns.
    static F placed(unsigned mask, const float* values) {
        const __m256i from = _mm256_cvtepi8_epi32(low(PLACES.bytes[mask]));
        const F moved = _mm256_permutevar8x32_ps(_mm256_loadu_ps(values), from);
        return _mm256_andnot_ps(_mm256_castsi256_ps(_mm256_srai_epi32(from, 31)), moved);
    }
    static F placed(unsigned mask, const uint16_t* values) {
        return of_halves(_mm_shuffle_epi8(full(values), full(PLACES.halves[mask])));
    }
    static F placed(unsigned mask, const int8_t* values) {
        return of_bytes(_mm_shuffle_epi8(low(values), low(PLACES.bytes[mask])));
    }
    static F eight(const float* values) { return _mm256_loadu_ps(values); }
    static F eight(const uint16_t* values) { return of_halves(full(values)); }
    static F eight(const int8_t* values) { return of_bytes(low(values)); }

    template <int KIND, class Value>
    static const Value* decode(uint64_t mask, const Value* values, F* w) {
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            const unsigned part = mask >> (8 * k) & 0xff;
            w[k] = placed(part, values);
            values += __builtin_popcount(part);
        }
        return values;
    }
    template <int KIND, class Value>
    static const Value* take(const Value* values, F* w) {
        for (int k = 0; k < 8; k++) w[k] = eight(values + 8 * k);
        return values + 64;
    }
    template <int KIND>
    static const float* widen(const float* values, int, float, float*) { return values; }
    template <int KIND>
    static const float* widen(const uint16_t* values, int count, float, float* out) {
        for (int i = 0; i < count; i += 8) store(out + i, eight(values + i));
        return out;
    }
    template <int KIND>
    static const float* widen(const int8_t* values, int count, float scale, float* out) {
        for (int i = 0; i < count; i += 8) store(out + i, _mm256_mul_ps(set1(scale), eight(values + i)));
        return out;
    }
};

}  // namespace

#include "eight_by_eight.hpp"
#include "kernels.hpp"

const Kernels avx2_kernels = {V::LANES, arrange, few, many, nullptr, transpose};
#endif
