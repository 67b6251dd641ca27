// Kernels for AVX-512 with byte permutations, expansions and dot products (VBMI, VBMI2, VNNI): Ice Lake, Zen 4
// and later.
#if defined(__x86_64__)
#include <immintrin.h>

#include "abi.h"

namespace {

struct V {
    static constexpr int LANES = 16, SUMS = 4, ROWS = 4, SPAN = 4;
    using F = __m512;
    static F zero() { return _mm512_setzero_ps(); }
    static F set1(float value) { return _mm512_set1_ps(value); }
    static F load(const float* from) { return _mm512_loadu_ps(from); }
    static void store(float* to, F a) { _mm512_storeu_ps(to, a); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static float sum(F a) { return _mm512_reduce_add_ps(a); }
    // Values are widened by shifts and masks. These leave the even and the odd of 32 columns of bfloat16 in two
    // vectors, and every fourth of 64 columns of int8 in four.
    static int place(int64_t kind, int column) {
        if (kind == SECATEUR_BFLOAT16) return column / 32 * 32 + column % 2 * 16 + column % 32 / 2;
        return kind == SECATEUR_INT8 ? column % 4 * 16 + column / 4 : column;
    }
    static F even(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
    static F odd(__m512i pairs) {
        return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int(0xffff0000u))));
    }
    // The dot product of every four bytes with 1, 0, 0, 0 is the first of them, with its sign, in one
    // instruction; shifts need two, and are what limits the dense product.
    static void widen_bytes(__m512i bytes, F* w) {
        for (int k = 0; k < 4; k++)
            w[k] = _mm512_cvtepi32_ps(
                _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_set1_epi32(1 << (8 * k)), bytes));
    }
    static F of_bytes(__m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)); }

    // The next 64 bytes of values, in a register: compilers would let the expansion read them from memory, which
    // some CPUs do in many small steps.
    static __m512i next(const void* values) {
        __m512i loaded = _mm512_loadu_si512(values);
        __asm__("" : "+v"(loaded));
        return loaded;
    }
    // Zeros that the expansion merges into. With the zeroing form some CPUs wait for what the register held last.
    static __m512i zeros() {
        __m512i zero = _mm512_setzero_si512();
        __asm__("" : "+v"(zero));
        return zero;
    }

    static F sixteen(const float* values) { return _mm512_loadu_ps(values); }
    static F sixteen(const uint16_t* values) {
        const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
    }
    static F sixteen(const int8_t* values) {
        return of_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(values)));
    }

    template <int KIND>
    static const float* decode(uint64_t mask, const float* values, F* w) {
        for (int k = 0; k < 4; k++) {
            const __mmask16 part = __mmask16(mask >> (16 * k));
            w[k] = _mm512_castsi512_ps(_mm512_mask_expand_epi32(zeros(), part, next(values)));
            values += __builtin_popcount(part);
        }
        return values;
    }
    template <int KIND>
    static const uint16_t* decode(uint64_t mask, const uint16_t* values, F* w) {
        for (int k = 0; k < 2; k++) {
            const __mmask32 part = __mmask32(mask >> (32 * k));
            const __m512i pairs = _mm512_mask_expand_epi16(zeros(), part, next(values));
            w[2 * k] = even(pairs);
            w[2 * k + 1] = odd(pairs);
            values += __builtin_popcount(part);
        }
        return values;
    }
    template <int KIND>
    static const int8_t* decode(uint64_t mask, const int8_t* values, F* w) {
        widen_bytes(_mm512_mask_expand_epi8(zeros(), mask, next(values)), w);
        return values + __builtin_popcountll(mask);
    }
    template <int KIND>
    static const float* take(const float* values, F* w) {
        for (int k = 0; k < 4; k++) w[k] = _mm512_loadu_ps(values + 16 * k);
        return values + 64;
    }
    template <int KIND>
    static const uint16_t* take(const uint16_t* values, F* w) {
        for (int k = 0; k < 2; k++) {
            const __m512i pairs = _mm512_loadu_si512(values + 32 * k);
            w[2 * k] = even(pairs);
            w[2 * k + 1] = odd(pairs);
        }
        return values + 64;
    }
    template <int KIND>
    static const int8_t* take(const int8_t* values, F* w) {
        widen_bytes(_mm512_loadu_si512(values), w);
        return values + 64;
    }
    template <int KIND>
    static const float* widen(const float* values, int, float, float*) { return values; }
    template <int KIND>
    static const float* widen(const uint16_t* values, int count, float, float* out) {
        for (int i = 0; i < count; i += 16) store(out + i, sixteen(values + i));
        return out;
    }
    template <int KIND>
    static const float* widen(const int8_t* values, int count, float scale, float* out) {
        for (int i = 0; i < count; i += 16) store(out + i, _mm512_mul_ps(set1(scale), sixteen(values + i)));
        return out;
    }
};

}  // namespace

#include "eight_by_eight.hpp"
#include "kernels.hpp"
#include "pairs.hpp"

const Kernels avx512_kernels = {V::LANES, arrange, few, many, pairs, transpose};
#endif
