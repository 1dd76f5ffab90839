// Products of some rows of a weight with rows of an input: float32 with float32, codes with codes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "integers.h"
#include "kernels.h"

extern "C" {
struct Weight {
  const void *data;   // (rows, columns), one row behind the other
  const void *scales; // int8: (rows,) float32; int4: (rows, blocks) float16, the step of a code
  const void *least;  // int4: (rows, blocks) float16, what a code of 0 stands for
  const float *bias;  // (rows,), or null
  const void *panels; // the codes once more, laid out as `lay_all` does; or null
  int64_t rows, columns, kind;
};
}

namespace {

enum Kind { FLOAT32, INT8, INT4 };

// Memory that a thread uses again and again, at the beginning of a cache line.
struct Scratch {
  std::vector<uint8_t> held;
  uint8_t *of(int64_t bytes) {
    if (int64_t(held.size()) < bytes + 64)
      held.resize(bytes + 64);
    return held.data() + (64 - reinterpret_cast<uintptr_t>(held.data()) % 64) % 64;
  }
};

// Numbers from the beginning of a cache line on: a register that is loaded across two lines takes twice
// as long.
struct Free {
  void operator()(float *at) const { std::free(at); }
};
typedef std::unique_ptr<float[], Free> Numbers;
inline Numbers numbers_of(int64_t n) {
  return Numbers(static_cast<float *>(std::aligned_alloc(64, (n * sizeof(float) / 64 + 1) * 64)));
}

// Rows of an input: as numbers, and as codes where a weight of codes reads them.
struct Input {
  const float *numbers; // (count, columns)
  Coded coded;
  int64_t count;
};

// Room for the codes of an input.
struct Codes {
  Scratch codes, blocks;
  Coded of(int64_t rows, int64_t n) {
    const int64_t count = blocks_of(n);
    return {reinterpret_cast<int8_t *>(codes.of(rows * count * BLOCK)),
            reinterpret_cast<Block *>(blocks.of(rows * count * sizeof(Block))), count};
  }
};

// Rows [first, last) of a float32 weight times x, onto or into y.
void multiply_floats(const Weight &weight, int64_t first, int64_t last, const Input &x, float *y,
                     int64_t stride, bool onto, Scratch &scratch) {
  const int64_t n = weight.columns, count = x.count;
  float *out = reinterpret_cast<float *>(scratch.of(count * ROWS * sizeof(float)));
  for (int64_t o = first; o < last; o += ROWS) {
    const float *rows[ROWS];
    for (int i = 0; i < ROWS; i++) // the last ones again where four are not left
      rows[i] = static_cast<const float *>(weight.data) + std::min(o + i, last - 1) * n;
    tiles(rows, x.numbers, n, count, n, out);
    for (int i = 0; i < ROWS && o + i < last; i++) {
      const float bias = weight.bias ? weight.bias[o + i] : 0;
      for (int64_t b = 0; b < count; b++) {
        const float value = out[b * ROWS + i] + bias;
        float &to = y[b * stride + o + i];
        to = onto ? to + value : value;
      }
    }
  }
}

// Four rows of a weight of codes, the last one again where fewer are left.
struct Four {
  const void *codes[4], *steps[4], *least[4];
  Four(const Weight &weight, int64_t first, int64_t last) {
    const int64_t blocks = blocks_of(weight.columns);
    const int64_t width = weight.kind == INT8 ? weight.columns : blocks * (BLOCK / 2);
    for (int i = 0; i < 4; i++) {
      const int64_t row = std::min(first + i, last - 1);
      codes[i] = static_cast<const uint8_t *>(weight.data) + row * width;
      steps[i] = static_cast<const uint16_t *>(weight.scales) + row * blocks;
      least[i] = static_cast<const uint16_t *>(weight.least) + row * blocks;
    }
  }
};

// Bytes of a panel that is kept: of int8 its codes, of int4 its codes by two, its steps and least values.
inline int64_t kept_bytes(const Weight &weight) {
  const int64_t blocks = blocks_of(weight.columns), codes = blocks * QUADS * QUAD;
  return weight.kind == INT8 ? codes : codes / 2 + 2 * blocks * OUTPUTS * int64_t(sizeof(uint16_t));
}

// Lays the panel of rows [first, first + OUTPUTS) out to be kept.
void keep_panel(const Weight &weight, int64_t first, uint8_t *to) {
  const int64_t blocks = blocks_of(weight.columns);
  uint16_t *steps = reinterpret_cast<uint16_t *>(to + blocks * QUADS * QUAD / 2);
  uint16_t *least = steps + blocks * OUTPUTS;
  for (int o = 0; o < OUTPUTS; o += 4) {
    const Four four(weight, first + o, weight.rows);
    if (weight.kind == INT8) {
      lay_int8(four.codes, weight.columns, to + o * 4);
      continue;
    }
    for (int64_t i = 0; i < blocks; i++) {
      Square(four.codes, i * (BLOCK / 2)).store_codes(to + i * QUADS / 2 * QUAD + o * 4, 0);
      for (int j = 0; j < 4; j++) {
        steps[i * OUTPUTS + o + j] = static_cast<const uint16_t *>(four.steps[j])[i];
        least[i * OUTPUTS + o + j] = static_cast<const uint16_t *>(four.least[j])[i];
      }
    }
  }
}

// Lays OUTPUTS rows of a weight of codes from `first` on, or takes what was laid out before.
Panel lay(const Weight &weight, int64_t first, int64_t last, Scratch &scratch) {
  const int64_t blocks = blocks_of(weight.columns), floats = (blocks + 3) / 4 * 4;
  const int64_t size = blocks * QUADS * QUAD;
  const bool signs = weight.kind == INT8;
  Panel panel = {};
  for (int o = 0; o < OUTPUTS; o++) {
    const int64_t row = std::min(first + o, last - 1);
    panel.scales[o] = signs ? static_cast<const float *>(weight.scales)[row] : 1;
    panel.biases[o] = weight.bias ? weight.bias[row] : 0;
  }
  if (weight.panels) {
    panel.codes = static_cast<const uint8_t *>(weight.panels) + first / OUTPUTS * kept_bytes(weight);
    const uint16_t *halves = reinterpret_cast<const uint16_t *>(panel.codes + size / 2);
    if (!signs)
      panel.steps = halves, panel.least = halves + blocks * OUTPUTS;
    return panel;
  }
  uint8_t *codes = scratch.of(size + (signs ? 0 : (2 * OUTPUTS + 4) * floats * sizeof(float)));
  float *steps = reinterpret_cast<float *>(codes + size), *least = steps + OUTPUTS * floats;
  panel.codes = codes;
  if (!signs)
    panel.steps = steps, panel.least = least;
  for (int o = 0; o < OUTPUTS; o += 4) {
    const Four four(weight, first + o, last);
    if (signs) {
      lay_int8(four.codes, weight.columns, codes + o * 4);
      continue;
    }
    lay_int4(four.codes, blocks, codes + o * 4);
    lay_halves(four.steps, blocks, least + OUTPUTS * floats, steps + o);
    lay_halves(four.least, blocks, least + OUTPUTS * floats, least + o);
  }
  return panel;
}

// Rows [first, last) of a weight of codes times x, onto or into y.
void multiply_codes(const Weight &weight, int64_t first, int64_t last, const Input &x, float *y,
                    int64_t stride, bool onto, Scratch &scratch) {
  constexpr int64_t AT_ONCE = 64; // rows of the input, where outputs are put in between
  float between[AT_ONCE * OUTPUTS];
  const auto multiply = weight.kind == INT8 ? multiply_panel<INT8_CODES>
                        : weight.panels     ? multiply_panel<INT4_PAIRS>
                                            : multiply_panel<INT4_CODES>;
  for (int64_t o = first; o < last; o += OUTPUTS) {
    const Panel panel = lay(weight, o, last, scratch);
    if (o + OUTPUTS <= last) {
      multiply(panel, x.coded, 0, x.count, y + o, stride, onto);
      continue;
    }
    for (int64_t row = 0; row < x.count; row += AT_ONCE) {
      const int64_t count = std::min(AT_ONCE, x.count - row);
      multiply(panel, x.coded, row, count, between, OUTPUTS, false);
      for (int64_t b = 0; b < count; b++)
        for (int64_t i = o; i < last; i++) {
          float &to = y[(row + b) * stride + i];
          to = onto ? to + between[b * OUTPUTS + i - o] : between[b * OUTPUTS + i - o];
        }
    }
  }
}

// Rows [first, last) of a weight times x, onto or into y.
void multiply(const Weight &weight, int64_t first, int64_t last, const Input &x, float *y,
              int64_t stride, bool onto, Scratch &scratch) {
  const auto by = weight.kind == FLOAT32 ? multiply_floats : multiply_codes;
  by(weight, first, last, x, y, stride, onto, scratch);
}

} // namespace
