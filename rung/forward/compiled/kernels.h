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

// Keeps a number in its register: compilers read it from memory again for every use, which takes longer
// than the arithmetic.
inline void keep(Floats &x) {
#if defined(__AVX512F__)
  asm("" : "+v"(x));
#elif defined(__AVX__)
  asm("" : "+x"(x));
#endif
}

// Asks for memory that will soon be read, into the second cache.
inline void ask(const float *from) {
#if defined(__SSE2__)
  _mm_prefetch(reinterpret_cast<const char *>(from), _MM_HINT_T1);
#else
  __builtin_prefetch(from, 0, 2);
#endif
}

// Products of four rows of a weight with N rows of x, (N, 4). On the way ASKED rows of n numbers from
// `ahead` on are asked for: arithmetic and memory then work at the same time.
template <int N, int ASKED>
inline void tile(const float *const *rows, const float *x, int64_t stride, int64_t n, float *out,
                 const float *ahead) {
  Floats sums[N][ROWS] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    Floats seen[N];
#pragma GCC unroll 8
    for (int b = 0; b < N; b++) {
      seen[b] = load<Floats>(x + b * stride + i);
      keep(seen[b]);
    }
#pragma GCC unroll 8
    for (int o = 0; o < ROWS; o++) {
      if (o < ASKED)
        ask(ahead + o * n + i);
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

template <int ASKED>
inline void tile(int64_t size, const float *const *rows, const float *x, int64_t stride, int64_t n,
                 float *out, const float *ahead) {
  switch (size) {
  case 1: return tile<1, ASKED>(rows, x, stride, n, out, ahead);
  case 2: return tile<2, ASKED>(rows, x, stride, n, out, ahead);
  case 3: return tile<3, ASKED>(rows, x, stride, n, out, ahead);
#if defined(__AVX512F__)
  case 4: return tile<4, ASKED>(rows, x, stride, n, out, ahead);
  case 5: return tile<5, ASKED>(rows, x, stride, n, out, ahead);
  case 6: return tile<6, ASKED>(rows, x, stride, n, out, ahead);
#endif
  }
}

// The same for any number of rows of x, in tiles of nearly one size, since small ones wait for memory.
// What stands behind the first row's three followers is asked for: the rows that come next.
inline void tiles(const float *const *rows, const float *x, int64_t stride, int64_t count, int64_t n,
                  float *out) {
  const int64_t turns = (count + MAX_TILE - 1) / MAX_TILE, asked = (ROWS + turns - 1) / turns;
  for (int64_t turn = 0, b = 0; turn < turns; turn++) {
    const int64_t size = (count - b + turns - turn - 1) / (turns - turn);
    const float *ahead = rows[0] + (ROWS + turn * asked) * n;
    const auto by = turn * asked >= ROWS ? tile<0> : asked == 1 ? tile<1> : asked == 2 ? tile<2> : tile<4>;
    by(size, rows, x + b * stride, stride, n, out + b * ROWS, ahead);
    b += size;
  }
}

// y (N, columns) += low (N, rank) times b (rank, columns), of registers C beside one another.
template <int N, int C>
inline void outer(const float *low, int64_t low_stride, const float *b, int64_t width, int64_t rank,
                  float *y, int64_t stride) {
  Floats sums[N][C];
  for (int row = 0; row < N; row++)
    for (int j = 0; j < C; j++)
      sums[row][j] = load<Floats>(y + row * stride + j * LANES);
  for (int64_t r = 0; r < rank; r++) {
    Floats seen[C];
#pragma GCC unroll 8
    for (int j = 0; j < C; j++)
      seen[j] = load<Floats>(b + r * width + j * LANES);
#pragma GCC unroll 8
    for (int row = 0; row < N; row++)
#pragma GCC unroll 8
      for (int j = 0; j < C; j++)
        sums[row][j] += seen[j] * low[row * low_stride + r];
  }
  for (int row = 0; row < N; row++)
    for (int j = 0; j < C; j++)
      store(y + row * stride + j * LANES, sums[row][j]);
}

// The same for any number of rows and columns.
inline void outer(const float *low, int64_t low_stride, const float *b, int64_t width, int64_t rank,
                  float *y, int64_t stride, int64_t rows, int64_t columns) {
  constexpr int WIDE = 2 * LANES;
  for (int64_t row = 0; row < rows;) {
    const bool four = rows - row >= 4;
    const float *from = low + row * low_stride;
    float *to = y + row * stride;
    int64_t j = 0;
    for (; j + WIDE <= columns; j += WIDE)
      four ? outer<4, 2>(from, low_stride, b + j, width, rank, to + j, stride)
           : outer<1, 2>(from, low_stride, b + j, width, rank, to + j, stride);
    for (; j < columns; j++)
      for (int64_t i = 0; i < (four ? 4 : 1); i++)
        for (int64_t r = 0; r < rank; r++)
          to[i * stride + j] += from[i * low_stride + r] * b[r * width + j];
    row += four ? 4 : 1;
  }
}

} // namespace
