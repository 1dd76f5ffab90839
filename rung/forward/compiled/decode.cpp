// One step of decoding through all layers of a base that is built like Llama: one token of each row,
// whose keys and values go into the row's lane. Called from decoder.py, which says what the structures
// hold. All threads go through the layers together; what is left of a phase is taken in small pieces, so
// that a thread that the system holds up costs little.
#include <atomic>
#include <cmath>
#include <memory>
#include <omp.h>
#include <vector>

#include "operations.h"
#include "products.h"

extern "C" {
struct Layer {
  Weight weights[7]; // queries, keys, values, output, gate, up, down
  const float *norms[2];
  float epsilons[2];
};
struct Change { // what an adapter does at one projection; null where it does nothing
  const float *a;     // (rank, columns)
  const float *b;     // (rank, rows), times its scale
  const float *added; // (rows,)
  int64_t rank;
};
struct Base {
  const Layer *layers;
  const float *norm;
  int64_t count, width, heads, key_heads, head_width, inner;
  float epsilon, scaling;
};
struct Step {
  int64_t rows, capacity, max_rank, threads;
  const int64_t *lanes, *positions;
  const float *entering, *cosines, *sines; // (rows, width), (rows, head_width) twice
  float *const *keys, *const *values;      // per layer (lanes, key_heads, capacity, head_width)
  const Change *const *adapters;           // per row (layers, 7), or null
  float *leaving;                          // (rows, width), after the last norm
};
}

namespace {

enum Part { QUERIES, KEYS, VALUES, OUTPUT, GATE, UP, DOWN, PARTS };
constexpr int64_t PIECE = 32; // rows of a weight, or numbers of a state, in a piece of work

// What threads share in a step.
struct Run {
  const Base &base;
  const Step &step;
  int64_t queries, keys; // widths
  std::unique_ptr<float[]> hidden, projected, mixed, gate, up, low;
  std::unique_ptr<std::atomic<int64_t>[]> taken; // pieces of each phase
  static constexpr int PHASES = 8;

  Run(const Base &base, const Step &step) : base(base), step(step) {
    queries = base.heads * base.head_width, keys = base.key_heads * base.head_width;
    auto room = [&](int64_t n) { return std::unique_ptr<float[]>(new float[step.rows * n]); };
    hidden = room(base.width), projected = room(queries + 2 * keys), mixed = room(queries);
    gate = room(base.inner), up = room(base.inner), low = room(3 * step.max_rank);
    taken.reset(new std::atomic<int64_t>[base.count * PHASES]);
    for (int64_t i = 0; i < base.count * PHASES; i++)
      taken[i] = 0;
    std::memcpy(hidden.get(), step.entering, step.rows * base.width * sizeof(float));
  }
  const Change *change(int64_t row, int64_t layer, int part) const {
    const Change *all = step.adapters[row];
    return all ? all + layer * PARTS + part : nullptr;
  }
  bool changes(int64_t layer, int first, int last) const {
    for (int64_t row = 0; row < step.rows; row++)
      for (int part = first; part <= last; part++)
        if (const Change *one = change(row, layer, part); one && (one->rank || one->added))
          return true;
    return false;
  }
};

// One thread's way through a step.
struct Thread {
  Run &run;
  std::vector<float> normed, scores, heads;
  Codes codes;
  Scratch scratch;

  explicit Thread(Run &run) : run(run) {
    int64_t most = 0;
    for (int64_t row = 0; row < run.step.rows; row++)
      most = std::max(most, run.step.positions[row] + 1);
    normed.resize(run.step.rows * run.base.width), scores.resize(most);
    heads.resize(4 * run.base.head_width);
  }

  // What projections from `part` on read, (rows, columns). Each thread codes it for itself, which takes
  // less than waiting for others.
  Input input(int64_t layer, int part, const float *x) {
    const Weight &weight = run.base.layers[layer].weights[part];
    Input out = {x, {}, run.step.rows};
    if (weight.kind != FLOAT32) {
      out.coded = codes.of(out.count, weight.columns);
      for (int64_t row = 0; row < out.count; row++)
        code_row(x + row * weight.columns, weight.columns, row, out.coded);
    }
    return out;
  }

  int64_t next(int64_t layer, int phase) { return run.taken[layer * Run::PHASES + phase]++; }

  // What the adapters' A make of x: of each row and each of some projections.
  bool lower(int64_t piece, int64_t layer, int first, int parts, const float *x) {
    const int64_t row = piece / parts, part = piece % parts;
    if (row >= run.step.rows)
      return false;
    const Change *one = run.change(row, layer, first + part);
    if (!one || !one->rank)
      return true;
    const int64_t n = run.base.layers[layer].weights[first].columns;
    Weight a = {one->a, nullptr, nullptr, nullptr, one->rank, n, FLOAT32};
    float *to = run.low.get() + (row * 3 + part) * run.step.max_rank;
    multiply(a, 0, one->rank, {x + row * n, {}, 1}, to, 0, false, scratch);
    return true;
  }

  // What the adapters add to outputs [from, from + n) of a projection of one row.
  void raise(int64_t row, int64_t layer, int part, int place, int64_t from, int64_t n, float *y) {
    const Change *one = run.change(row, layer, part);
    if (!one)
      return;
    const int64_t width = run.base.layers[layer].weights[part].rows;
    const float *low = run.low.get() + (row * 3 + place) * run.step.max_rank;
    for (int64_t r = 0; r < one->rank; r++)
      add(y, one->b + r * width + from, low[r], n);
    if (one->added)
      add(y, one->added + from, 1, n);
  }

  const float *norms(int64_t layer, int which) {
    const Layer &mine = run.base.layers[layer];
    for (int64_t row = 0; row < run.step.rows; row++)
      norm(run.hidden.get() + row * run.base.width, mine.norms[which], mine.epsilons[which],
           run.base.width, normed.data() + row * run.base.width);
    return normed.data();
  }

  // Projections side by side into y.
  void project(int64_t layer, int phase, int first, int parts, const float *x, float *y, int64_t stride,
               bool onto, bool changed) {
    const Weight *weights = run.base.layers[layer].weights + first;
    const int64_t before = changed ? run.step.rows * parts : 0;
    const Input seen = input(layer, first, x);
    for (int64_t piece; (piece = next(layer, phase)) >= 0;) {
      if (piece < before) {
        lower(piece, layer, first, parts, x);
        continue;
      }
      piece -= before;
      int part = 0;
      int64_t at = 0;
      for (; part < parts; part++) {
        const int64_t pieces = (weights[part].rows + PIECE - 1) / PIECE;
        if (piece < pieces)
          break;
        piece -= pieces, at += weights[part].rows;
      }
      if (part == parts)
        return;
      const int64_t from = piece * PIECE, to = std::min(from + PIECE, weights[part].rows);
      multiply(weights[part], from, to, seen, y + at, stride, onto, scratch);
    }
  }

  // One head of one row: rotations, the lane's new key and value, and attention.
  void head(int64_t layer, int64_t row, int64_t head) {
    const Base &base = run.base;
    const int64_t n = base.head_width, key_head = head / (base.heads / base.key_heads);
    const float *from = run.projected.get() + row * (run.queries + 2 * run.keys);
    float *query = heads.data(), *key = query + n, *value = key + n, *turned = value + n;
    const float *cosines = run.step.cosines + row * n, *sines = run.step.sines + row * n;
    std::memcpy(turned, from + head * n, n * sizeof(float));
    raise(row, layer, QUERIES, 0, head * n, n, turned);
    rotate(turned, cosines, sines, n, query);
    for (int64_t i = 0; i < n; i++)
      query[i] *= base.scaling;
    std::memcpy(turned, from + run.queries + key_head * n, n * sizeof(float));
    raise(row, layer, KEYS, 1, key_head * n, n, turned);
    rotate(turned, cosines, sines, n, key);
    std::memcpy(value, from + run.queries + run.keys + key_head * n, n * sizeof(float));
    raise(row, layer, VALUES, 2, key_head * n, n, value);
    const int64_t at = run.step.positions[row];
    const int64_t lane = (run.step.lanes[row] * base.key_heads + key_head) * run.step.capacity * n;
    float *keys = run.step.keys[layer] + lane, *values = run.step.values[layer] + lane;
    if (head % (base.heads / base.key_heads) == 0) { // nobody reads them before the next step
      std::memcpy(keys + at * n, key, n * sizeof(float));
      std::memcpy(values + at * n, value, n * sizeof(float));
    }
    attend(query, keys, values, at, key, value, n, scores.data(),
           run.mixed.get() + row * run.queries + head * n);
  }

  // Calls `act(row, from, n)` for pieces of `width` numbers of each row.
  template <class Act> void pieces(int64_t layer, int phase, int64_t width, Act act) {
    const int64_t count = (width + PIECE - 1) / PIECE;
    for (int64_t piece; (piece = next(layer, phase)) < count * run.step.rows;) {
      const int64_t from = piece % count * PIECE;
      act(piece / count, from, std::min(PIECE, width - from));
    }
  }

  // What adapters add behind a projection onto the states.
  void raise_hidden(int64_t layer, int phase, int part) {
    pieces(layer, phase, run.base.width, [&](int64_t row, int64_t from, int64_t n) {
      raise(row, layer, part, 0, from, n, run.hidden.get() + row * run.base.width + from);
    });
  }

  void raise_gate(int64_t layer, int phase) {
    pieces(layer, phase, run.base.inner, [&](int64_t row, int64_t from, int64_t n) {
      const int64_t at = row * run.base.inner + from;
      float *gate = run.gate.get() + at, *up = run.up.get() + at;
      raise(row, layer, GATE, 0, from, n, gate);
      raise(row, layer, UP, 1, from, n, up);
      activate(gate, up, n);
    });
  }

  // Gate and up, and what they make together where no adapter changes them.
  void open(int64_t layer, int phase, const float *x, bool changed) {
    const Weight *weights = run.base.layers[layer].weights;
    const int64_t inner = run.base.inner, rows = run.step.rows, before = changed ? rows * 2 : 0;
    const Input seen = input(layer, GATE, x);
    for (int64_t piece; (piece = next(layer, phase)) < before + (inner + PIECE - 1) / PIECE;) {
      if (piece < before) {
        lower(piece, layer, GATE, 2, x);
        continue;
      }
      const int64_t from = (piece - before) * PIECE, to = std::min(from + PIECE, inner);
      multiply(weights[GATE], from, to, seen, run.gate.get(), inner, false, scratch);
      multiply(weights[UP], from, to, seen, run.up.get(), inner, false, scratch);
      for (int64_t row = 0; !changed && row < rows; row++)
        activate(run.gate.get() + row * inner + from, run.up.get() + row * inner + from, to - from);
    }
  }

  void layer(int64_t i) {
    const Base &base = run.base;
    bool changed = run.changes(i, QUERIES, VALUES);
    project(i, 0, QUERIES, 3, norms(i, 0), run.projected.get(), run.queries + 2 * run.keys, false,
            changed);
#pragma omp barrier
    for (int64_t piece; (piece = next(i, 1)) < run.step.rows * base.heads;)
      head(i, piece / base.heads, piece % base.heads);
#pragma omp barrier
    changed = run.changes(i, OUTPUT, OUTPUT);
    project(i, 2, OUTPUT, 1, run.mixed.get(), run.hidden.get(), base.width, true, changed);
#pragma omp barrier
    if (changed) {
      raise_hidden(i, 3, OUTPUT);
#pragma omp barrier
    }
    changed = run.changes(i, GATE, UP);
    open(i, 4, norms(i, 1), changed);
#pragma omp barrier
    if (changed) {
      raise_gate(i, 5);
#pragma omp barrier
    }
    changed = run.changes(i, DOWN, DOWN);
    project(i, 6, DOWN, 1, run.gate.get(), run.hidden.get(), base.width, true, changed);
#pragma omp barrier
    if (changed) {
      raise_hidden(i, 7, DOWN);
#pragma omp barrier
    }
  }
};

} // namespace

extern "C" {

void rung_step(const Base *base, const Step *step) {
  Run run(*base, *step);
#pragma omp parallel num_threads(step->threads)
  {
    Thread mine(run);
    for (int64_t i = 0; i < base->count; i++)
      mine.layer(i);
  }
  for (int64_t row = 0; row < step->rows; row++)
    norm(run.hidden.get() + row * base->width, base->norm, base->epsilon, base->width,
         step->leaving + row * base->width);
}

// x (count, columns) times a weight -> y (count, rows)
void rung_product(const Weight *weight, const float *x, int64_t count, float *y, int64_t threads) {
  std::atomic<int64_t> taken{0};
  Codes codes;
  Input input = {x, {}, count};
  if (weight->kind != FLOAT32)
    input.coded = codes.of(count, weight->columns);
#pragma omp parallel num_threads(threads)
  {
    if (weight->kind != FLOAT32) {
#pragma omp for
      for (int64_t row = 0; row < count; row++)
        code_row(x + row * weight->columns, weight->columns, row, input.coded);
    }
    Scratch scratch;
    for (int64_t from; (from = taken.fetch_add(PIECE)) < weight->rows;)
      multiply(*weight, from, std::min(from + PIECE, weight->rows), input, y, weight->rows, false,
               scratch);
  }
}
}
