// Makes products of odd sizes by every instruction set, kind and way, under a sanitizer. Its arrays end where
// the interface says, so that a read or write beyond them is noticed. Two threads share each product: those of
// OpenMP, or, with an argument, two plain ones with a product each, because OpenMP's own waiting looks like a
// race to a sanitizer that did not compile it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <thread>
#include <vector>

#include "abi.h"

static uint32_t state = 1;
static uint32_t drawn() { return state = state * 1664525u + 1013904223u; }
static float number() { return float(int(drawn() >> 16) - 32768) / 32768.0f; }

enum { BITS, DENSE, CODES, FORMS };  // CODES are for one token, and columns that 64 divides

struct Made {
    std::vector<uint8_t> bits, memory;
    std::vector<float> scales, x, wide;
    std::vector<int64_t> starts{0};
    std::vector<uint32_t> codes;
    SecateurWeight weight;

    Made(int64_t rows, int64_t columns, int64_t tokens, int64_t kind, int form) : x(size_t(tokens * columns)) {
        const bool dense = form == DENSE;
        const size_t size = kind == SECATEUR_FLOAT32 ? 4 : kind == SECATEUR_BFLOAT16 ? 2 : 1;
        const int64_t bytes = (columns + 7) / 8, groups = (columns + 63) / 64;
        bits.resize(size_t(rows * bytes));
        wide.resize(size_t(rows * columns));
        scales.assign(size_t(rows * groups), 0.5f);
        for (int64_t r = 0; r < rows; r++) {
            int64_t count = starts.back();
            int64_t left = 2;  // values that the next columns of four must have, where there are codes
            for (int64_t c = 0; c < columns; c++) {
                if (c % 4 == 0) left = 2;
                const bool free = left == 0 || (4 - c % 4 > left && drawn() >> 31);
                if (form == CODES ? free : !dense && drawn() >> 30) continue;
                if (form == CODES) {
                    const size_t at = size_t(count - starts.front());
                    if (at / 16 == codes.size()) codes.push_back(0);
                    codes[at / 16] |= uint32_t(c % 4) << (2 * (at % 16));
                    left--;
                }
                bits[size_t(r * bytes + c / 8)] |= uint8_t(1 << (c % 8));
                int8_t whole = int8_t(drawn() >> 24);
                float value = kind == SECATEUR_INT8 ? 0.5f * whole : float(whole);
                wide[size_t(r * columns + c)] = value;
                uint32_t as_bits;
                memcpy(&as_bits, &value, 4);
                const uint16_t half = uint16_t(as_bits >> 16);
                const void* from = kind == SECATEUR_FLOAT32 ? (void*)&value
                                   : kind == SECATEUR_BFLOAT16 ? (void*)&half : (void*)&whole;
                memory.insert(memory.end(), (const uint8_t*)from, (const uint8_t*)from + size);
                count++;
            }
            starts.push_back(count);
        }
        memory.resize(memory.size() + 64 * size);
        memory.shrink_to_fit();
        for (float& one : x) one = number();
        weight = {dense ? nullptr : bits.data(), memory.data(), kind == SECATEUR_INT8 ? scales.data() : nullptr,
                  dense ? nullptr : starts.data(), form == CODES ? codes.data() : nullptr, rows, columns,
                  kind == SECATEUR_INT8 ? 64 : 0, kind, starts.back() + 64};
    }

    bool right(int64_t tokens, int64_t way, int64_t set, int64_t threads) const {
        std::vector<float> y(size_t(tokens * weight.rows));
        if (secateur_product(&weight, x.data(), tokens, y.data(), way, set, threads)) return false;
        for (int64_t t = 0; t < tokens; t++)
            for (int64_t r = 0; r < weight.rows; r++) {
                double sum = 0;
                for (int64_t c = 0; c < weight.columns; c++)
                    sum += double(x[size_t(t * weight.columns + c)]) * wide[size_t(r * weight.columns + c)];
                const double off = sum - y[size_t(t * weight.rows + r)];
                if (off > 0.05 || off < -0.05) return false;
            }
        return true;
    }
};

int main(int arguments, char**) {
    const bool plain_threads = arguments > 1;
    const int64_t sizes[][3] = {{1, 1, 1}, {3, 65, 9}, {17, 64, 5}, {300, 130, 33}, {9, 200, 130}, {19, 192, 1}};
    int products = 0;
    for (int64_t set = 0; set < SECATEUR_SETS; set++) {
        if (!secateur_has(set)) continue;
        for (auto [rows, columns, tokens] : sizes)
            for (int64_t kind = 0; kind < 3; kind++)
                for (int form = 0; form < FORMS; form++)
                    for (int64_t way = 0; way < 2; way++) {
                        if (form == CODES && columns % 64) continue;
                        const Made made(rows, columns, tokens, kind, form);
                        bool first = false, second = true;
                        if (plain_threads) {
                            std::thread one([&] { first = made.right(tokens, way, set, 1); });
                            std::thread two([&] { second = made.right(tokens, way, set, 1); });
                            one.join();
                            two.join();
                        } else {
                            first = made.right(tokens, way, set, 2);
                        }
                        if (!first || !second) {
                            printf("wrong: set %d rows %d columns %d tokens %d kind %d form %d way %d\n",
                                   int(set), int(rows), int(columns), int(tokens), int(kind), form, int(way));
                            return 1;
                        }
                        products++;
                    }
    }
    printf("%d products\n", products);
    return 0;
}
