// Kernels for 64-bit ARM, whose NEON always has fma and table look-ups.
#if defined(__aarch64__)
#include <arm_neon.h>

#include "abi.h"
#include "places.hpp"

namespace {

struct V {
    static constexpr int LANES = 4, SUMS = 4, ROWS = 1, SPAN = 1;
    using F = float32x4_t;
    static F zero() { return vdupq_n_f32(0); }
    static F set1(float value) { return vdupq_n_f32(value); }
    static F load(const float* from) { return vld1q_f32(from); }
    static void store(float* to, F a) { vst1q_f32(to, a); }
    static F add(F a, F b) { return vaddq_f32(a, b); }
    static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    static float sum(F a) { return vaddvq_f32(a); }
    static int place(int64_t, int column) { return column; }
    static void of_halves(uint16x8_t halves, F* w) {
        w[0] = vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(halves), 16));
        w[1] = vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(halves), 16));
    }
    static void of_bytes(int8x8_t bytes, F* w) {
        const int16x8_t wide = vmovl_s8(bytes);
        w[0] = vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
        w[1] = vcvtq_f32_s32(vmovl_s16(vget_high_s16(wide)));
    }
    // The next values of 8 columns, in two vectors.
    static void placed(unsigned mask, const float* values, F* w) {
        const uint8x16_t low = vld1q_u8(reinterpret_cast<const uint8_t*>(values));
        const unsigned first = mask & 15, second = mask >> 4;
        const float* after = values + __builtin_popcount(first);
        const uint8x16_t high = vld1q_u8(reinterpret_cast<const uint8_t*>(after));
        w[0] = vreinterpretq_f32_u8(vqtbl1q_u8(low, fours(first)));
        w[1] = vreinterpretq_f32_u8(vqtbl1q_u8(high, fours(second)));
    }
    // Where the 16 bytes of 4 columns come from.
    static uint8x16_t fours(unsigned mask) {
        const uint16x8_t pairs = vmovl_u8(vld1_u8(PLACES.bytes[mask]));
        const uint32x4_t places = vmovl_u16(vget_low_u16(pairs));
        // place p becomes the bytes 4p to 4p + 3; 0x80 stays far beyond the 16 bytes of a table
        const uint32x4_t spread = vmulq_n_u32(vminq_u32(places, vdupq_n_u32(32)), 0x04040404u);
        return vreinterpretq_u8_u32(vaddq_u32(spread, vdupq_n_u32(0x03020100u)));
    }
    static void placed(unsigned mask, const uint16_t* values, F* w) {
        const uint8x16_t bytes = vld1q_u8(reinterpret_cast<const uint8_t*>(values));
        of_halves(vreinterpretq_u16_u8(vqtbl1q_u8(bytes, vld1q_u8(PLACES.halves[mask]))), w);
    }
    static void placed(unsigned mask, const int8_t* values, F* w) {
        of_bytes(vtbl1_s8(vld1_s8(values), vreinterpret_s8_u8(vld1_u8(PLACES.bytes[mask]))), w);
    }
    static void eight(const float* values, F* w) {
        w[0] = vld1q_f32(values);
        w[1] = vld1q_f32(values + 4);
    }
    static void eight(const uint16_t* values, F* w) { of_halves(vld1q_u16(values), w); }
    static void eight(const int8_t* values, F* w) { of_bytes(vld1_s8(values), w); }

    template <int KIND, class Value>
    static const Value* decode(uint64_t mask, const Value* values, F* w) {
#pragma GCC unroll 8
        for (int k = 0; k < 8; k++) {
            const unsigned part = mask >> (8 * k) & 0xff;
            placed(part, values, w + 2 * k);
            values += __builtin_popcount(part);
        }
        return values;
    }
    template <int KIND, class Value>
    static const Value* take(const Value* values, F* w) {
        for (int k = 0; k < 8; k++) eight(values + 8 * k, w + 2 * k);
        return values + 64;
    }
    template <int KIND>
    static const float* widen(const float* values, int, float, float*) { return values; }
    template <int KIND, class Value>
    static const float* widen(const Value* values, int count, float scale, float* out) {
        for (int i = 0; i < count; i += 8) {
            F w[2];
            eight(values + i, w);
            store(out + i, KIND == SECATEUR_INT8 ? vmulq_n_f32(w[0], scale) : w[0]);
            store(out + i + 4, KIND == SECATEUR_INT8 ? vmulq_n_f32(w[1], scale) : w[1]);
        }
        return out;
    }
};

void transpose(const float* in, int64_t stride_in, float* out, int64_t stride_out) {
    for (int i = 0; i < 8; i++)
        for (int j = 0; j < 8; j++) out[j * stride_out + i] = in[i * stride_in + j];
}

}  // namespace

#include "kernels.hpp"

const Kernels neon_kernels = {V::LANES, arrange, few, many, nullptr, transpose};
#endif
