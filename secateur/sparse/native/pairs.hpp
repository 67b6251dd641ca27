// A product with one token of a weight that has two values in every four columns (2:4), for AVX-512. The
// values of 32 columns are 16, the lanes of a vector, so nothing is expanded: x is permuted to the values
// instead, by codes of two bits. Zeros are skipped; whoever calls it makes sure that x is finite.
#pragma once

namespace {

constexpr int64_t HALF = 32;  // columns whose values fill a vector, and whose codes fill 32 bits

template <int KIND, int ROWS>
void pairs_at_once(const SecateurWeight& weight, int64_t row, const float* x, float* y) {
    using Value = typename Stored<KIND>::Type;
    const int64_t halves = weight.columns / HALF;
    const int64_t per_group = KIND == SECATEUR_INT8 ? weight.group / HALF : halves;
    const int64_t groups = (halves + per_group - 1) / per_group;
    // Lane i takes its code from bits 2 i and 2 i + 1, and picks among the four columns of its own value.
    const __m512i shifts = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
    const __m512i four = _mm512_set_epi32(28, 28, 24, 24, 20, 20, 16, 16, 12, 12, 8, 8, 4, 4, 0, 0);
    const __m512i two_bits = _mm512_set1_epi32(3);
    const int and_then_or = 0xea;  // (a & b) | c
    const Value* values = static_cast<const Value*>(weight.values) + row * halves * 16;
    const uint32_t* codes = weight.codes + row * halves;
    const float* scales = KIND == SECATEUR_INT8 ? weight.scales + row * groups : nullptr;
    V::F sums[ROWS][2], scaled[ROWS];
    for (int r = 0; r < ROWS; r++) scaled[r] = sums[r][0] = sums[r][1] = V::zero();
    for (int64_t group = 0; group < groups; group++) {
        const int64_t begin = group * per_group, end = begin + per_group < halves ? begin + per_group : halves;
        for (int64_t half = begin; half < end; half += 2) {
            V::F shared[4];
            for (int k = 0; k < 4; k++) shared[k] = V::load(x + half * HALF + k * V::LANES);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                const Value* now = values + (r * halves + half) * 16;
                __builtin_prefetch(reinterpret_cast<const char*>(now) + AHEAD);
#pragma GCC unroll 2
                for (int h = 0; h < 2; h++) {
                    const __m512i code = _mm512_set1_epi32(int(codes[r * halves + half + h]));
                    const __m512i lane = _mm512_ternarylogic_epi32(_mm512_srlv_epi32(code, shifts), two_bits,
                                                                   four, and_then_or);
                    const V::F xs = _mm512_permutex2var_ps(shared[2 * h], lane, shared[2 * h + 1]);
                    sums[r][h] = V::fma(V::sixteen(now + 16 * h), xs, sums[r][h]);
                }
            }
        }
        if (KIND == SECATEUR_INT8) {
            for (int r = 0; r < ROWS; r++) {
                const V::F factor = V::set1(scales[r * groups + group]);
                scaled[r] = V::fma(V::add(sums[r][0], sums[r][1]), factor, scaled[r]);
                sums[r][0] = sums[r][1] = V::zero();
            }
        }
    }
    for (int r = 0; r < ROWS; r++)
        y[row + r] = V::sum(KIND == SECATEUR_INT8 ? scaled[r] : V::add(sums[r][0], sums[r][1]));
}

template <int KIND>
void pairs_of(const SecateurWeight& weight, int64_t first, int64_t last, const float* x, float* y) {
    int64_t row = first;
    const int64_t values = (last - first) * (weight.columns / 2);
    if (values * int64_t(sizeof(typename Stored<KIND>::Type)) <= SECOND_CACHE)  // see few_rows
        for (; row + V::ROWS <= last; row += V::ROWS) pairs_at_once<KIND, V::ROWS>(weight, row, x, y);
    for (; row < last; row++) pairs_at_once<KIND, 1>(weight, row, x, y);
}

void pairs(const SecateurWeight& weight, int64_t first, int64_t last, const float* x, float* y) {
    switch (weight.kind) {
        case SECATEUR_FLOAT32: return pairs_of<SECATEUR_FLOAT32>(weight, first, last, x, y);
        case SECATEUR_BFLOAT16: return pairs_of<SECATEUR_BFLOAT16>(weight, first, last, x, y);
        default: return pairs_of<SECATEUR_INT8>(weight, first, last, x, y);
    }
}

}  // namespace
