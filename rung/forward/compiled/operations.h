// Operations of a layer on the vectors of one row: norm, rotary positions, activation, attention of one
// query over a lane.
#pragma once

#include <cmath>
#include <cstdint>

#include "kernels.h"

namespace {

float dot(const float *x, const float *y, int64_t n) {
  Floats sums[4] = {};
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    sums[i / LANES % 4] += load<Floats>(x + i) * load<Floats>(y + i);
  float parts[4];
  sum4(sums, parts);
  float total = (parts[0] + parts[1]) + (parts[2] + parts[3]);
  for (; i < n; i++)
    total += x[i] * y[i];
  return total;
}

// y += factor * x
void add(float *y, const float *x, float factor, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES)
    store(y + i, load<Floats>(y + i) + load<Floats>(x + i) * factor);
  for (; i < n; i++)
    y[i] += factor * x[i];
}

void norm(const float *x, const float *weight, float epsilon, int64_t n, float *out) {
  const float inverse = 1.0f / std::sqrt(dot(x, x, n) / n + epsilon);
  for (int64_t i = 0; i < n; i++)
    out[i] = x[i] * inverse * weight[i];
}

void rotate(const float *x, const float *cosines, const float *sines, int64_t n, float *out) {
  const int64_t half = n / 2;
  for (int64_t i = 0; i < half; i++) {
    out[i] = x[i] * cosines[i] - x[half + i] * sines[i];
    out[half + i] = x[half + i] * cosines[half + i] + x[i] * sines[half + i];
  }
}

// gate = silu(gate) * up
void activate(float *gate, const float *up, int64_t n) {
  int64_t i = 0;
  for (; i + LANES <= n; i += LANES) {
    Floats x = load<Floats>(gate + i);
    store(gate + i, x / (1.0f + exponential(-x)) * load<Floats>(up + i));
  }
  for (; i < n; i++)
    gate[i] = gate[i] / (1.0f + exponential(-gate[i])) * up[i];
}

// What N queries read of values, with their scores: numbers [i, i + 4 registers) of each.
template <int N>
inline void mix(const float *values, int64_t before, const float *value, int64_t n, const float *scores,
                int64_t room, const float *totals, float *out) {
  Floats sums[N][4];
  for (int q = 0; q < N; q++)
    for (int j = 0; j < 4; j++)
      sums[q][j] = load<Floats>(value + j * LANES) * scores[q * room + before];
  for (int64_t t = 0; t < before; t++)
#pragma GCC unroll 8
    for (int j = 0; j < 4; j++) {
      Floats seen = load<Floats>(values + t * n + j * LANES);
#pragma GCC unroll 8
      for (int q = 0; q < N; q++)
        sums[q][j] += seen * scores[q * room + t];
    }
  for (int q = 0; q < N; q++)
    for (int j = 0; j < 4; j++)
      store(out + q * n + j * LANES, sums[q][j] / totals[q]);
}

// Scores (before + 1,) as weights that are to be divided by what is given back.
float weigh(float *scores, int64_t before) {
  float most = scores[0], total = 0;
  int64_t t = 1;
  for (; t <= before; t++)
    most = scores[t] > most ? scores[t] : most;
  for (t = 0; t + LANES <= before + 1; t += LANES)
    store(scores + t, exponential(load<Floats>(scores + t) - most));
  for (; t <= before; t++)
    scores[t] = exponential(scores[t] - most);
  for (t = 0; t <= before; t++)
    total += scores[t];
  return total;
}

// Some queries (count, n) over the same `before` keys and values and the newest ones; scratch has room
// for count * (before + 1 + ROWS + 1) numbers.
void attend(const float *queries, int64_t count, const float *keys, const float *values, int64_t before,
            const float *key, const float *value, int64_t n, float *scratch, float *out) {
  const int64_t room = before + 1;
  float *scores = scratch, *four = scores + count * room, *totals = four + count * ROWS;
  int64_t t = 0;
  for (; t + ROWS <= before && n >= LANES; t += ROWS) {
    const float *rows[ROWS];
    for (int i = 0; i < ROWS; i++)
      rows[i] = keys + (t + i) * n;
    tiles(rows, queries, n, count, n, four);
    for (int64_t q = 0; q < count; q++)
      std::memcpy(scores + q * room + t, four + q * ROWS, sizeof(float) * ROWS);
  }
  for (int64_t q = 0; q < count; q++) {
    for (int64_t at = t; at < before; at++)
      scores[q * room + at] = dot(queries + q * n, keys + at * n, n);
    scores[q * room + before] = dot(queries + q * n, key, n);
    totals[q] = weigh(scores + q * room, before);
  }
  int64_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES)
    for (int64_t q = 0; q < count;) {
      const int64_t size = count - q >= 3 ? 3 : 1;
      (size == 3 ? mix<3> : mix<1>)(values + i, before, value + i, n, scores + q * room, room, totals + q,
                                    out + q * n + i);
      q += size;
    }
  if (i == n)
    return;
  for (int64_t q = 0; q < count; q++) {
    const float *mine = scores + q * room;
    float *to = out + q * n;
    for (int64_t j = i; j < n; j++)
      to[j] = value[j] * mine[before];
    for (t = 0; t < before; t++)
      add(to + i, values + t * n + i, mine[t], n - i);
    for (int64_t j = i; j < n; j++)
      to[j] /= totals[q];
  }
}

} // namespace
