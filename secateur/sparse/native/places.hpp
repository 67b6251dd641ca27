// For each byte of bits, which of the next values stands at each of its 8 columns, for instructions that
// shuffle bytes: an index with its highest bit set gives 0.
#pragma once
#include <stdint.h>

namespace {

struct Places {
    uint8_t bytes[256][8];   // of values of one byte
    uint8_t halves[256][16];  // of values of two bytes
    constexpr Places() : bytes(), halves() {
        for (int mask = 0; mask < 256; mask++) {
            uint8_t next = 0;
            for (int j = 0; j < 8; j++) {
                const bool set = mask >> j & 1;
                bytes[mask][j] = set ? next : 0x80;
                halves[mask][2 * j] = set ? uint8_t(2 * next) : 0x80;
                halves[mask][2 * j + 1] = set ? uint8_t(2 * next + 1) : 0x80;
                if (set) next++;
            }
        }
    }
};

alignas(64) constexpr Places PLACES;

}  // namespace
