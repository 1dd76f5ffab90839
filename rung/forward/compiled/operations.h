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

// One query over `before` keys and values and the newest ones; scores has room for all of them.
void attend(const float *query, const float *keys, const float *values, int64_t before, const float *key,
            const float *value, int64_t n, float *scores, float *out) {
  float most = scores[before] = dot(query, key, n);
  int64_t t = 0;
  for (; t + ROWS <= before && n >= LANES; t += ROWS) {
    const float *rows[ROWS];
    for (int i = 0; i < ROWS; i++)
      rows[i] = keys + (t + i) * n;
    tile<1>(rows, query, n, n, scores + t);
  }
  for (; t < before; t++)
    scores[t] = dot(query, keys + t * n, n);
  for (t = 0; t < before; t++)
    most = scores[t] > most ? scores[t] : most;
  float total = 0;
  for (t = 0; t + LANES <= before + 1; t += LANES)
    store(scores + t, exponential(load<Floats>(scores + t) - most));
  for (; t <= before; t++)
    scores[t] = exponential(scores[t] - most);
  for (t = 0; t <= before; t++)
    total += scores[t];
  int64_t i = 0;
  for (; i + 4 * LANES <= n; i += 4 * LANES) {
    Floats sums[4];
    for (int j = 0; j < 4; j++)
      sums[j] = load<Floats>(value + i + j * LANES) * scores[before];
    for (t = 0; t < before; t++)
      for (int j = 0; j < 4; j++)
        sums[j] += load<Floats>(values + t * n + i + j * LANES) * scores[t];
    for (int j = 0; j < 4; j++)
      store(out + i + j * LANES, sums[j] / total);
  }
  if (i < n) {
    for (int64_t j = i; j < n; j++)
      out[j] = value[j] * scores[before];
    for (t = 0; t < before; t++)
      add(out + i, values + t * n + i, scores[t], n - i);
    for (int64_t j = i; j < n; j++)
      out[j] /= total;
  }
}

} // namespace
