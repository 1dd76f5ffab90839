// Vector arithmetic, and products of a few rows with a weight (d_out, d_in) whose rows stand one behind
// the other: float32 as torch holds it, or codes that are turned into numbers in registers.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX__)
#include <immintrin.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;   // numbers in a register
constexpr int MAX_TILE = 6; // rows of x that are multiplied at once: 4 * 6 sums stay in registers
#else
constexpr int LANES = 8;
constexpr int MAX_TILE = 3;
#endif
constexpr int ROWS = 4;   // rows of the weight that are multiplied at once
constexpr int GROUP = 32; // weights of a row that share a scale in 4 bits

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef int8_t Bytes __attribute__((vector_size(LANES)));
typedef uint8_t Unsigned __attribute__((vector_size(LANES)));

template <class V, class T> inline V load(const T *from) {
  V out;
  std::memcpy(&out, from, sizeof out);
  return out;
}

inline void store(float *to, Floats x) { std::memcpy(to, &x, sizeof x); }

inline Floats all(float x) { return x - Floats{}; }

// The sums of four registers.
inline void sum4(const Floats *x, float *out) {
#if defined(__AVX512F__)
  __m256 half[4];
  for (int i = 0; i < 4; i++) {
    __m512 one = (__m512)x[i];
    half[i] = _mm256_add_ps(_mm512_castps512_ps256(one),
                            _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(one), 1)));
  }
#elif defined(__AVX__)
  __m256 half[4];
  for (int i = 0; i < 4; i++)
    half[i] = (__m256)x[i];
#endif
#if defined(__AVX__)
  __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(half[0], half[1]), _mm256_hadd_ps(half[2], half[3]));
  _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
#else
  for (int i = 0; i < 4; i++) {
    float total = 0;
    for (int j = 0; j < LANES; j++)
      total += x[i][j];
    out[i] = total;
  }
#endif
}

// e to the x, to 2 in the last place.
inline Floats exponential(Floats x) {
  const Floats low = all(-87.0f), high = all(88.0f), magic = all(12582912.0f);
  x = x < low ? low : x;
  x = x > high ? high : x;
  Floats n = x * 1.44269504088896341f + magic;
  Ints power;
  std::memcpy(&power, &n, sizeof n);
  n = n - magic;
  Floats r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Floats y = all(1.9875691500e-4f);
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  Ints bits = (power + 127) << 23; // the magic number's own bits are shifted out
  Floats scale;
  std::memcpy(&scale, &bits, sizeof bits);
  return y * scale;
}

inline float exponential(float x) { return exponential(all(x))[0]; }

inline float of_half(uint16_t x) {
  uint32_t bits = uint32_t(x & 0x7fff) << 13, sign = uint32_t(x & 0x8000) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  out *= 0x1p112f;
  std::memcpy(&bits, &out, 4);
  bits |= sign;
  std::memcpy(&out, &bits, 4);
  return out;
}

// Codes as numbers; compilers turn the general form into many instructions.
inline Ints widened(const int8_t *from) {
#if defined(__AVX512F__)
  return (Ints)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(__AVX2__)
  return (Ints)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from));
#else
  return __builtin_convertvector(load<Bytes>(from), Ints);
#endif
}

inline Ints widened(const uint8_t *from) {
#if defined(__AVX512F__)
  return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)from));
#elif defined(__AVX2__)
  return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)from));
#else
  return __builtin_convertvector(load<Unsigned>(from), Ints);
#endif
}

inline Floats numbers(Ints codes) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps((__m512i)codes);
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtepi32_ps((__m256i)codes);
#else
  return __builtin_convertvector(codes, Floats);
#endif
}

// --- how a row of a weight is read ----------------------------------------------------------------

struct Float32 {
  const float *at_;
  Floats at(int64_t i) const { return load<Floats>(at_ + i); }
  float one(int64_t i) const { return at_[i]; }
};

struct Int8 { // its scale is applied to the sum
  const int8_t *codes;
  Floats at(int64_t i) const { return numbers(widened(codes + i)); }
  float one(int64_t i) const { return codes[i]; }
};

struct Int4 { // 16 bytes a group: the first 16 weights in the low halves, the others in the high ones
  const uint8_t *codes;
  const float *steps, *least;
  // LANES of the first 16 weights of a group, from `place` on, and as many of the others.
  void at(uint64_t group, int place, Floats *out) const {
    const Ints both = widened(codes + group * (GROUP / 2) + place);
    out[0] = numbers(both & 15) * steps[group] + least[group];
    out[1] = numbers(both >> 4) * steps[group] + least[group];
  }
  float one(uint64_t i) const {
    const uint64_t group = i / GROUP, within = i % GROUP;
    const int code = codes[group * (GROUP / 2) + within % (GROUP / 2)] >> (within / (GROUP / 2) * 4);
    return (code & 15) * steps[group] + least[group];
  }
};

// A row as float32, n numbers.
inline void turn(const Int8 &row, int64_t n, float *out) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    store(out + i, row.at(i));
  for (; i < n; i++)
    out[i] = row.one(i);
}

inline void turn(const Int4 &row, int64_t n, float *out) {
  int64_t i = 0;
  for (; i + GROUP <= n; i += GROUP)
    for (int place = 0; place < GROUP / 2; place += LANES) {
      Floats both[2];
      row.at(i / GROUP, place, both);
      store(out + i + place, both[0]);
      store(out + i + GROUP / 2 + place, both[1]);
    }
  for (; i < n; i++)
    out[i] = row.one(i);
}

// The totals of a tile's sums, and the numbers from i on, which fill no register.
template <int N, class Row>
inline void finish(const Row *rows, const float *x, int64_t stride, int64_t i, int64_t n,
                   const Floats (&sums)[N][ROWS], float *out) {
#pragma GCC unroll 8
  for (int b = 0; b < N; b++)
    sum4(sums[b], out + b * ROWS);
  for (; i < n; i++)
#pragma GCC unroll 8
    for (int b = 0; b < N; b++)
#pragma GCC unroll 8
      for (int o = 0; o < ROWS; o++)
        out[b * ROWS + o] += rows[o].one(i) * x[b * stride + i];
}

// Products of four rows with N rows of x, (N, 4).
template <int N, class Row>
inline void tile(const Row *rows, const float *x, int64_t stride, int64_t n, float *out) {
  Floats sums[N][ROWS] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    Floats seen[N];
#pragma GCC unroll 8
    for (int b = 0; b < N; b++)
      seen[b] = load<Floats>(x + b * stride + i);
#pragma GCC unroll 8
    for (int o = 0; o < ROWS; o++) {
      Floats weight = rows[o].at(i);
#pragma GCC unroll 8
      for (int b = 0; b < N; b++)
        sums[b][o] += weight * seen[b];
    }
  }
  finish<N>(rows, x, stride, i, n, sums, out);
}

template <int N>
inline void tile(const Int4 *rows, const float *x, int64_t stride, int64_t n, float *out) {
  Floats sums[N][ROWS] = {};
  int64_t i = 0;
  for (; i + GROUP <= n; i += GROUP)
#pragma GCC unroll 2
    for (int place = 0; place < GROUP / 2; place += LANES)
#pragma GCC unroll 8
      for (int o = 0; o < ROWS; o++) {
        Floats both[2];
        rows[o].at(i / GROUP, place, both);
#pragma GCC unroll 8
        for (int b = 0; b < N; b++) {
          const float *seen = x + b * stride + i + place;
          sums[b][o] += both[0] * load<Floats>(seen);
          sums[b][o] += both[1] * load<Floats>(seen + GROUP / 2);
        }
      }
  finish<N>(rows, x, stride, i, n, sums, out);
}

template <class Row>
inline void tiles(const Row *rows, const float *x, int64_t stride, int64_t count, int64_t n, float *out) {
  for (int64_t b = 0; b < count;) {
    const float *from = x + b * stride;
    float *to = out + b * ROWS;
    int64_t left = count - b;
#if defined(__AVX512F__)
    if (left >= 6) { tile<6>(rows, from, stride, n, to); b += 6; continue; }
    if (left >= 4) { tile<4>(rows, from, stride, n, to); b += 4; continue; }
#endif
    if (left >= 3) { tile<3>(rows, from, stride, n, to); b += 3; continue; }
    if (left == 2) { tile<2>(rows, from, stride, n, to); b += 2; continue; }
    tile<1>(rows, from, stride, n, to);
    b += 1;
  }
}

} // namespace
