// Products of codes with codes. A row of the input becomes whole numbers of 8 bits with a scale for each
// BLOCK of it; sums over a block are exact in int32, whatever the processor, and each is scaled in float32
// and added to those before it, in the order of the blocks. So what comes out for a row is the same number
// whichever rows are beside it.
//
// Rows of a weight stand one behind the other. OUTPUTS of them at a time are laid out as a panel, in
// which four codes of each output stand side by side, as instructions for dot products of four bytes read
// them. A panel serves all rows of the input. It is laid out in a core's cache and forgotten, so that a
// weight is held once; with few rows that takes longer than the products, so panels are kept where memory
// is plentiful.
#pragma once

#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels.h"

namespace {

constexpr int BLOCK = 32;        // inputs that share a scale, and weights that share a step in int4
constexpr int OUTPUTS = 16;      // rows of a weight in a panel
constexpr int QUADS = BLOCK / 4; // fours of codes in a block
constexpr int64_t QUAD = OUTPUTS * 4; // bytes of a panel that hold four codes of each output

#if defined(__AVX512VNNI__)
constexpr int MAX_ROWS_AT_ONCE = 12; // 2 * 12 sums stay in registers
#else
constexpr int MAX_ROWS_AT_ONCE = 4;
#endif
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int RAISED = 128; // added to int8 codes in a panel, whose instruction takes none below 0
#else
constexpr int RAISED = 0;
#endif

// How a panel holds codes: one a byte, or those of int4 by two, as they are held.
enum Form { INT8_CODES, INT4_CODES, INT4_PAIRS };
template <Form FORM> constexpr int LINES = FORM == INT4_PAIRS ? QUADS / 2 : QUADS; // of QUAD bytes a block

inline int64_t blocks_of(int64_t n) { return (n + BLOCK - 1) / BLOCK; }

// --- inputs ----------------------------------------------------------------------------------------

struct Block { // of a row of the input
  float scale;
  float moment;  // the sum of its codes, times the scale
  int32_t start; // takes back what raised codes of a weight add to a sum
};

// Rows of the input as codes; what is beyond a row's end is 0.
struct Coded {
  int8_t *codes; // (rows, blocks * BLOCK)
  Block *blocks; // (rows, blocks)
  int64_t count; // blocks of a row
};

// The largest magnitude of a block, as bits: not a number counts as larger than any.
inline int32_t largest(const float *x) {
  Ints most = {};
  for (int i = 0; i < BLOCK; i += LANES) {
    Ints bits = load<Ints>(x + i) & 0x7fffffff;
    most = bits > most ? bits : most;
  }
  int32_t out = 0;
  for (int i = 0; i < LANES; i++)
    out = most[i] > out ? most[i] : out;
  return out;
}

// To the nearest whole numbers, to the even one of two.
inline Ints nearest(Floats x) {
#if defined(__AVX512F__)
  return (Ints)_mm512_cvtps_epi32((__m512)x);
#elif defined(__AVX__)
  return (Ints)_mm256_cvtps_epi32((__m256)x);
#else
  Ints out;
  for (int i = 0; i < LANES; i++)
    out[i] = (int32_t)__builtin_rintf(x[i]);
  return out;
#endif
}

inline void code_block(const float *x, int8_t *codes, Block &block) {
  const int32_t bits = largest(x);
  float most;
  std::memcpy(&most, &bits, 4);
  // What is this small counts as 0; what is not finite must not come out as if it were.
  if (most < 1e-30f || bits >= 0x7f800000) {
    std::memset(codes, 0, BLOCK);
    const float scale = bits >= 0x7f800000 ? std::numeric_limits<float>::quiet_NaN() : 0;
    block = {scale, scale, 0};
    return;
  }
  const Floats inverse = all(127.0f / most);
  Ints sums = {};
  for (int i = 0; i < BLOCK; i += LANES) {
    const Ints found = nearest(load<Floats>(x + i) * inverse);
    sums += found;
    typedef int8_t Bytes __attribute__((vector_size(LANES)));
    const Bytes bytes = __builtin_convertvector(found, Bytes);
    std::memcpy(codes + i, &bytes, sizeof bytes);
  }
  int32_t sum = 0;
  for (int i = 0; i < LANES; i++)
    sum += sums[i];
  const float scale = most / 127.0f;
  block = {scale, scale * float(sum), -RAISED * sum};
}

// Row `row` of the input, n numbers.
inline void code_row(const float *x, int64_t n, int64_t row, const Coded &to) {
  int8_t *codes = to.codes + row * to.count * BLOCK;
  Block *blocks = to.blocks + row * to.count;
  for (int64_t i = 0; i < to.count; i++) {
    const int64_t at = i * BLOCK;
    if (at + BLOCK <= n) {
      code_block(x + at, codes + at, blocks[i]);
      continue;
    }
    float last[BLOCK] = {};
    std::memcpy(last, x + at, (n - at) * sizeof(float));
    code_block(last, codes + at, blocks[i]);
  }
}

// --- panels ----------------------------------------------------------------------------------------

// Four rows of four numbers of 32 bits -> their columns, `stride` bytes apart.
struct Square {
#if defined(__SSE2__)
  __m128i rows[4];
  Square(const void *const *from, int64_t at) {
    for (int i = 0; i < 4; i++)
      rows[i] = _mm_loadu_si128((const __m128i *)((const uint8_t *)from[i] + at));
    __m128i a = _mm_unpacklo_epi32(rows[0], rows[1]), b = _mm_unpackhi_epi32(rows[0], rows[1]);
    __m128i c = _mm_unpacklo_epi32(rows[2], rows[3]), d = _mm_unpackhi_epi32(rows[2], rows[3]);
    rows[0] = _mm_unpacklo_epi64(a, c), rows[1] = _mm_unpackhi_epi64(a, c);
    rows[2] = _mm_unpacklo_epi64(b, d), rows[3] = _mm_unpackhi_epi64(b, d);
  }
  void store_codes(uint8_t *to, int flip) const {
    for (int i = 0; i < 4; i++)
      _mm_storeu_si128((__m128i *)(to + i * QUAD), _mm_xor_si128(rows[i], _mm_set1_epi8(flip)));
  }
  void store_halves(uint8_t *low, uint8_t *high) const {
    const __m128i mask = _mm_set1_epi8(15);
    for (int i = 0; i < 4; i++) {
      _mm_storeu_si128((__m128i *)(low + i * QUAD), _mm_and_si128(rows[i], mask));
      _mm_storeu_si128((__m128i *)(high + i * QUAD), _mm_and_si128(_mm_srli_epi16(rows[i], 4), mask));
    }
  }
#else
  uint8_t rows[4][16];
  Square(const void *const *from, int64_t at) {
    for (int i = 0; i < 4; i++)
      for (int j = 0; j < 4; j++)
        std::memcpy(rows[j] + i * 4, (const uint8_t *)from[i] + at + j * 4, 4);
  }
  void store_codes(uint8_t *to, int flip) const {
    for (int i = 0; i < 4; i++)
      for (int j = 0; j < 16; j++)
        to[i * QUAD + j] = rows[i][j] ^ flip;
  }
  void store_halves(uint8_t *low, uint8_t *high) const {
    for (int i = 0; i < 4; i++)
      for (int j = 0; j < 16; j++)
        low[i * QUAD + j] = rows[i][j] & 15, high[i * QUAD + j] = rows[i][j] >> 4;
  }
#endif
};

// Four rows are read side by side, which is no order that a processor foresees: asks for the four rows
// behind them, one line of the cache for 16 bytes of each of these.
inline void fetch(const void *row, int64_t width, int64_t at) {
  __builtin_prefetch(static_cast<const uint8_t *>(row) + 4 * (width + at));
}

// Rows of int8 codes, n each, into four places of a panel.
inline void lay_int8(const void *const *rows, int64_t n, uint8_t *panel) {
  int64_t at = 0;
  for (; at + 16 <= n; at += 16) {
    fetch(rows[0], n, at);
    Square(rows, at).store_codes(panel + at / 4 * QUAD, RAISED);
  }
  for (; at < blocks_of(n) * BLOCK; at += 16) { // beyond the end inputs are 0, and codes may be any
    uint8_t last[4][16] = {};
    const void *from[4];
    for (int i = 0; i < 4; i++) {
      if (at < n)
        std::memcpy(last[i], (const uint8_t *)rows[i] + at, n - at < 16 ? n - at : 16);
      from[i] = last[i];
    }
    Square(from, 0).store_codes(panel + at / 4 * QUAD, RAISED);
  }
}

// Rows of int4 codes: 16 bytes a block, the first 16 weights in the low halves, the others in the high.
inline void lay_int4(const void *const *rows, int64_t blocks, uint8_t *panel) {
  for (int64_t i = 0; i < blocks; i++) {
    uint8_t *to = panel + i * QUADS * QUAD;
    fetch(rows[0], blocks * (BLOCK / 2), i * (BLOCK / 2));
    Square(rows, i * (BLOCK / 2)).store_halves(to, to + QUADS / 2 * QUAD);
  }
}

inline void halves_to_floats(const uint16_t *from, int64_t n, float *to) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= n; i += 8)
    _mm256_storeu_ps(to + i, _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + i))));
#endif
  for (; i < n; i++)
    to[i] = of_half(from[i]);
}

// Numbers (4, n) float16 -> (n, OUTPUTS) float32, into four places; room for 4 rows, n rounded up to 4.
inline void lay_halves(const void *const *rows, int64_t n, float *room, float *to) {
  const int64_t stride = (n + 3) / 4 * 4;
  const void *turned[4];
  for (int i = 0; i < 4; i++) {
    halves_to_floats((const uint16_t *)rows[i], n, room + i * stride);
    turned[i] = room + i * stride;
  }
  for (int64_t at = 0; at < stride; at += 4) // QUAD bytes are OUTPUTS float32
    Square(turned, at * 4).store_codes((uint8_t *)(to + at * OUTPUTS), 0);
}

// --- products --------------------------------------------------------------------------------------

#if defined(__AVX2__) && !defined(__AVX512VNNI__) && !defined(__AVXVNNI__)
// The products of four codes of 8 outputs with four of an input, by two.
template <Form FORM> inline __m256i pairs8(__m256i codes, __m256i four) {
  if (FORM == INT8_CODES) // the magnitudes of one factor, and the other with its signs
    return _mm256_maddubs_epi16(_mm256_abs_epi8(four), _mm256_sign_epi8(codes, four));
  return _mm256_maddubs_epi16(codes, four);
}

// The sums of a block for 8 outputs. No sum of 16 bits overflows: two products of codes up to 127 make
// 32,258 at most; sixteen of codes up to 15 with codes up to 127 make 30,480.
template <Form FORM> inline __m256i dots8(const uint8_t *panel, const int8_t *x) {
  const __m256i ones = _mm256_set1_epi16(1), half = _mm256_set1_epi8(15);
  __m256i sums = _mm256_setzero_si256();
  const auto fours = [x](int q) { return _mm256_set1_epi32(load<int32_t>(x + 4 * q)); };
#pragma GCC unroll 8
  for (int q = 0; q < LINES<FORM>; q++) {
    const __m256i codes = _mm256_loadu_si256((const __m256i *)(panel + q * QUAD));
    if (FORM == INT8_CODES) {
      sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs8<FORM>(codes, fours(q)), ones));
    } else if (FORM == INT4_CODES) {
      sums = _mm256_add_epi16(sums, pairs8<FORM>(codes, fours(q)));
    } else {
      const __m256i low = _mm256_and_si256(codes, half);
      const __m256i high = _mm256_and_si256(_mm256_srli_epi16(codes, 4), half);
      sums = _mm256_add_epi16(sums, pairs8<FORM>(low, fours(q)));
      sums = _mm256_add_epi16(sums, pairs8<FORM>(high, fours(q + QUADS / 2)));
    }
  }
  return FORM == INT8_CODES ? sums : _mm256_madd_epi16(sums, ones);
}
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
// Adds the products of four codes of LANES outputs with four of each of N rows of the input.
template <int N> inline void add_fours(Ints codes, const int8_t *x, int64_t stride, Ints (&sums)[N]) {
#pragma GCC unroll 12
  for (int b = 0; b < N; b++) {
    const int32_t four = load<int32_t>(x + b * stride);
#if defined(__AVX512VNNI__)
    sums[b] = (Ints)_mm512_dpbusd_epi32((__m512i)sums[b], (__m512i)codes, _mm512_set1_epi32(four));
#else
    sums[b] = (Ints)_mm256_dpbusd_avx_epi32((__m256i)sums[b], (__m256i)codes, _mm256_set1_epi32(four));
#endif
  }
}
#endif

// Adds the sums of a block, of LANES outputs and each of N rows of the input.
template <int N, Form FORM>
inline void add_dots(const uint8_t *panel, const int8_t *x, int64_t stride, Ints (&sums)[N]) {
#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
#pragma GCC unroll 8
  for (int q = 0; q < LINES<FORM>; q++) {
    const Ints codes = load<Ints>(panel + q * QUAD);
    if (FORM == INT4_PAIRS) {
      add_fours(codes & 0x0f0f0f0f, x + 4 * q, stride, sums);
      add_fours(codes >> 4 & 0x0f0f0f0f, x + 4 * (q + QUADS / 2), stride, sums);
    } else {
      add_fours(codes, x + 4 * q, stride, sums);
    }
  }
#elif defined(__AVX2__)
#pragma GCC unroll 4
  for (int b = 0; b < N; b++) {
    const __m256i low = dots8<FORM>(panel, x + b * stride);
#if defined(__AVX512F__)
    const __m256i high = dots8<FORM>(panel + 32, x + b * stride);
    sums[b] += (Ints)_mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
#else
    sums[b] += (Ints)low;
#endif
  }
#else
  for (int b = 0; b < N; b++)
    for (int q = 0; q < QUADS; q++)
      for (int o = 0; o < LANES; o++)
        for (int i = 0; i < 4; i++) {
          const int8_t *seen = x + b * stride + q * 4 + i;
          const int code = panel[q % LINES<FORM> * QUAD + o * 4 + i];
          if (FORM == INT4_PAIRS)
            sums[b][o] += (q < LINES<FORM> ? code & 15 : code >> 4) * *seen;
          else // codes of int4 are below 16, so that this holds for them too
            sums[b][o] += int32_t(int8_t(code)) * *seen;
        }
#endif
}

// A panel, and what its sums are multiplied with.
struct Panel {
  const uint8_t *codes; // (blocks, LINES, OUTPUTS, 4)
  const void *steps;    // int4: (blocks, OUTPUTS) float32, of INT4_PAIRS float16; int8: null
  const void *least;    // int4: as steps
  float scales[OUTPUTS], biases[OUTPUTS];
};

// LANES steps or least values of a panel, from number `at` on.
template <Form FORM> inline Floats scales_of(const void *from, int64_t at) {
  if (FORM == INT4_CODES)
    return load<Floats>(static_cast<const float *>(from) + at);
  const uint16_t *halves = static_cast<const uint16_t *>(from) + at;
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)halves));
#elif defined(__F16C__)
  return (Floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
#else
  Floats out;
  for (int i = 0; i < LANES; i++)
    out[i] = of_half(halves[i]);
  return out;
#endif
}

// LANES outputs of a panel, from `first` on, for N rows of the input from `row` on.
template <int N, Form FORM>
inline void multiply_rows(const Panel &panel, int first, const Coded &x, int64_t row, float *y,
                          int64_t stride, bool onto) {
  const int64_t codes = x.count * BLOCK;
  const int8_t *from = x.codes + row * codes;
  const Block *blocks = x.blocks + row * x.count;
  Floats totals[N] = {};
  for (int64_t i = 0; i < x.count; i++) {
    Ints sums[N];
#pragma GCC unroll 12
    for (int b = 0; b < N; b++)
      sums[b] = Ints{} + (FORM == INT8_CODES ? blocks[b * x.count + i].start : 0);
    add_dots<N, FORM>(panel.codes + i * LINES<FORM> * QUAD + first * 4, from + i * BLOCK, codes, sums);
    if constexpr (FORM == INT8_CODES) {
#pragma GCC unroll 12
      for (int b = 0; b < N; b++)
        totals[b] += numbers(sums[b]) * blocks[b * x.count + i].scale;
    } else {
      const Floats steps = scales_of<FORM>(panel.steps, i * OUTPUTS + first);
      const Floats least = scales_of<FORM>(panel.least, i * OUTPUTS + first);
#pragma GCC unroll 12
      for (int b = 0; b < N; b++) {
        totals[b] += numbers(sums[b]) * (steps * blocks[b * x.count + i].scale);
        totals[b] += least * blocks[b * x.count + i].moment;
      }
    }
  }
#pragma GCC unroll 12
  for (int b = 0; b < N; b++) {
    float *to = y + b * stride + first;
    Floats value = totals[b] * load<Floats>(panel.scales + first) + load<Floats>(panel.biases + first);
    if (onto)
      value = load<Floats>(to) + value;
    store(to, value);
  }
}

// A panel times rows [row, row + count) of the input, onto or into y (count, OUTPUTS), `stride` apart.
template <Form FORM>
inline void multiply_panel(const Panel &panel, const Coded &x, int64_t row, int64_t count, float *y,
                           int64_t stride, bool onto) {
  for (int first = 0; first < OUTPUTS; first += LANES)
    for (int64_t b = 0; b < count;) {
      const int64_t left = count - b;
      float *to = y + b * stride;
#if defined(__AVX512VNNI__)
      if (left >= 12) { multiply_rows<12, FORM>(panel, first, x, row + b, to, stride, onto); b += 12; continue; }
      if (left >= 6) { multiply_rows<6, FORM>(panel, first, x, row + b, to, stride, onto); b += 6; continue; }
#endif
      if (left >= 4) { multiply_rows<4, FORM>(panel, first, x, row + b, to, stride, onto); b += 4; continue; }
      if (left >= 2) { multiply_rows<2, FORM>(panel, first, x, row + b, to, stride, onto); b += 2; continue; }
      multiply_rows<1, FORM>(panel, first, x, row + b, to, stride, onto);
      b += 1;
    }
}

} // namespace
