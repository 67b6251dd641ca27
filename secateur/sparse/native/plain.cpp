// Kernels without intrinsics: compilers make of these loops what every CPU of their target has.
#include "abi.h"

namespace {

struct V {
    static constexpr int LANES = 4, SUMS = 4, ROWS = 1, SPAN = 1;
    struct F { float at[LANES]; };
    static F zero() { return set1(0); }
    static F set1(float value) { return F{{value, value, value, value}}; }
    static F load(const float* from) { return F{{from[0], from[1], from[2], from[3]}}; }
    static void store(float* to, F a) {
        for (int i = 0; i < LANES; i++) to[i] = a.at[i];
    }
    static F add(F a, F b) {
        for (int i = 0; i < LANES; i++) a.at[i] += b.at[i];
        return a;
    }
    static F fma(F a, F b, F c) {
        for (int i = 0; i < LANES; i++) c.at[i] += a.at[i] * b.at[i];
        return c;
    }
    static float sum(F a) { return (a.at[0] + a.at[1]) + (a.at[2] + a.at[3]); }
    static int place(int64_t, int column) { return column; }
    template <int KIND, class Value>
    static const Value* decode(uint64_t mask, const Value* values, F* w);
    template <int KIND, class Value>
    static const Value* take(const Value* values, F* w);
    template <int KIND, class Value>
    static const float* widen(const Value* values, int count, float scale, float* out);
};

}  // namespace

#include "kernels.hpp"

namespace {

template <int KIND, class Value>
const Value* V::decode(uint64_t mask, const Value* values, F* w) {
    for (int k = 0; k < VECTORS; k++) w[k] = zero();
    for (; mask; mask &= mask - 1) {
        const int j = __builtin_ctzll(mask);
        w[j / LANES].at[j % LANES] = widened(*values++);
    }
    return values;
}

template <int KIND, class Value>
const Value* V::take(const Value* values, F* w) {
    for (int j = 0; j < BLOCK; j++) w[j / LANES].at[j % LANES] = widened(values[j]);
    return values + BLOCK;
}

template <int KIND, class Value>
const float* V::widen(const Value* values, int count, float scale, float* out) {
    for (int i = 0; i < count; i++) out[i] = KIND == SECATEUR_INT8 ? widened(values[i]) * scale : widened(values[i]);
    return out;
}

void transpose(const float* in, int64_t stride_in, float* out, int64_t stride_out) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) out[j * stride_out + i] = in[i * stride_in + j];
}

}  // namespace

const Kernels plain_kernels = {V::LANES, arrange, few, many, nullptr, transpose};
