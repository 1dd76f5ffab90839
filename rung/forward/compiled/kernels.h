// Vector arithmetic in float32, and products of a few rows with a float32 weight (d_out, d_in) whose rows
// stand one behind the other, as torch holds it. Products of codes are in integers.h.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
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
constexpr int ROWS = 4; // rows of the weight that are multiplied at once

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));

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

// Whole numbers as float32; compilers turn the general form into many instructions.
inline Floats numbers(Ints codes) {
#if defined(__AVX512F__)
  return (Floats)_mm512_cvtepi32_ps((__m512i)codes);
#elif defined(__AVX2__)
  return (Floats)_mm256_cvtepi32_ps((__m256i)codes);
#else
  return __builtin_convertvector(codes, Floats);
#endif
}

// Products of four rows of a weight with N rows of x, (N, 4).
template <int N>
inline void tile(const float *const *rows, const float *x, int64_t stride, int64_t n, float *out) {
  Floats sums[N][ROWS] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    Floats seen[N];
#pragma GCC unroll 8
    for (int b = 0; b < N; b++)
      seen[b] = load<Floats>(x + b * stride + i);
#pragma GCC unroll 8
    for (int o = 0; o < ROWS; o++) {
      Floats weight = load<Floats>(rows[o] + i);
#pragma GCC unroll 8
      for (int b = 0; b < N; b++)
        sums[b][o] += weight * seen[b];
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < N; b++)
    sum4(sums[b], out + b * ROWS);
  for (; i < n; i++) // the last numbers fill no register
#pragma GCC unroll 8
    for (int b = 0; b < N; b++)
#pragma GCC unroll 8
      for (int o = 0; o < ROWS; o++)
        out[b * ROWS + o] += rows[o][i] * x[b * stride + i];
}

inline void tiles(const float *const *rows, const float *x, int64_t stride, int64_t count, int64_t n, float *out) {
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
