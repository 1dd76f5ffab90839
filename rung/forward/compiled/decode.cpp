// One step of decoding through all layers of a base that is built like Llama: one token of each row,
// whose keys and values go into the row's lane; rows of one lane stand one behind the other in it. Called
// from decoder.py, which says what the structures hold. All threads go through the layers together; what
// is left of a phase is taken in small pieces, so that a thread that the system holds up costs little.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <memory>
#include <numeric>
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
constexpr int64_t RANKS = 8;  // rows of an adapter's A in a piece of work

// Rows of a step, one behind the other, that the same adapter changes.
struct Group {
  int64_t first, count;
  const Change *changes; // (layers, 7)
};

// What threads share in a step. Rows stand in the order of their adapters, so that what an adapter holds
// is read once for all rows that it changes.
struct Run {
  const Base &base;
  const Step &step;
  int64_t queries, keys; // widths
  std::vector<int64_t> order; // of each row here, its row in the step
  std::vector<Group> groups;
  Numbers hidden, projected, mixed, gate, up, low;
  bool together; // whether several rows stand in one lane, one behind the other
  std::unique_ptr<std::atomic<int64_t>[]> taken; // pieces of each phase
  static constexpr int PHASES = 9;

  Run(const Base &base, const Step &step) : base(base), step(step), order(step.rows) {
    queries = base.heads * base.head_width, keys = base.key_heads * base.head_width;
    auto room = [&](int64_t n) { return numbers_of(step.rows * n); };
    hidden = room(base.width), projected = room(queries + 2 * keys), mixed = room(queries);
    gate = room(base.inner), up = room(base.inner), low = room(3 * step.max_rank);
    std::vector<int64_t> lanes(step.lanes, step.lanes + step.rows);
    std::sort(lanes.begin(), lanes.end());
    together = std::adjacent_find(lanes.begin(), lanes.end()) != lanes.end();
    taken.reset(new std::atomic<int64_t>[base.count * PHASES]);
    for (int64_t i = 0; i < base.count * PHASES; i++)
      taken[i] = 0;
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int64_t a, int64_t b) { return std::less<>()(step.adapters[a], step.adapters[b]); });
    for (int64_t row = 0; row < step.rows; row++) {
      const Change *mine = step.adapters[order[row]];
      if (mine && (groups.empty() || groups.back().changes != mine))
        groups.push_back({row, 0, mine});
      if (mine)
        groups.back().count++;
      std::memcpy(hidden.get() + row * base.width, step.entering + order[row] * base.width,
                  base.width * sizeof(float));
    }
  }
  const Change &change(const Group &group, int64_t layer, int part) const {
    return group.changes[layer * PARTS + part];
  }
  bool changes(int64_t layer, int first, int last) const {
    for (const Group &group : groups)
      for (int part = first; part <= last; part++)
        if (const Change &one = change(group, layer, part); one.rank || one.added)
          return true;
    return false;
  }
};

// One thread's way through a step.
struct Thread {
  Run &run;
  Numbers normed, scores, heads;
  Codes codes;
  Scratch scratch;

  explicit Thread(Run &run) : run(run) {
    const int64_t sharing = run.base.heads / run.base.key_heads;
    int64_t most = 0;
    for (int64_t row = 0; row < run.step.rows; row++)
      most = std::max(most, run.step.positions[row] + 1);
    normed = numbers_of(run.step.rows * run.base.width);
    scores = numbers_of(sharing * (most + ROWS + 1)), heads = numbers_of((sharing + 1) * run.base.head_width);
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

  // Pieces of `lower` for some projections that read the same.
  int64_t lowering(int parts) const {
    return int64_t(run.groups.size()) * parts * ((run.step.max_rank + RANKS - 1) / RANKS);
  }

  // What some rows of an adapter's A make of x: of a group's rows and one of some projections.
  void lower(int64_t piece, int64_t layer, int first, int parts, const float *x) {
    const int64_t chunks = (run.step.max_rank + RANKS - 1) / RANKS, from = piece % chunks * RANKS;
    const int64_t part = piece / chunks % parts;
    const Group &group = run.groups[piece / chunks / parts];
    const Change &one = run.change(group, layer, first + part);
    if (from >= one.rank)
      return;
    const int64_t n = run.base.layers[layer].weights[first].columns, stride = 3 * run.step.max_rank;
    Weight a = {one.a, nullptr, nullptr, nullptr, nullptr, one.rank, n, FLOAT32};
    float *to = run.low.get() + group.first * stride + part * run.step.max_rank;
    multiply(a, from, std::min(from + RANKS, one.rank), {x + group.first * n, {}, group.count}, to, stride,
             false, scratch);
  }

  // What an adapter adds to outputs [from, from + n) of a projection: rows [first, first + count) of a
  // group, at y.
  void raise(const Group &group, int64_t first, int64_t count, int64_t layer, int part, int place,
             int64_t from, int64_t n, float *y, int64_t stride) {
    const Change &one = run.change(group, layer, part);
    const int64_t width = run.base.layers[layer].weights[part].rows, apart = 3 * run.step.max_rank;
    if (one.rank)
      outer(run.low.get() + first * apart + place * run.step.max_rank, apart, one.b + from, width, one.rank,
            y, stride, count, n);
    for (int64_t row = 0; one.added && row < count; row++)
      add(y + row * stride, one.added + from, 1, n);
  }

  // The same for all rows, whose outputs stand `stride` apart in y.
  void raise_all(int64_t layer, int part, int place, int64_t from, int64_t n, float *y, int64_t stride) {
    for (const Group &group : run.groups)
      raise(group, group.first, group.count, layer, part, place, from, n, y + group.first * stride + from,
            stride);
  }

  const float *norms(int64_t layer, int which) {
    const Layer &mine = run.base.layers[layer];
    for (int64_t row = 0; row < run.step.rows; row++)
      norm(run.hidden.get() + row * run.base.width, mine.norms[which], mine.epsilons[which],
           run.base.width, normed.get() + row * run.base.width);
    return normed.get();
  }

  // Projections side by side into y.
  void project(int64_t layer, int phase, int first, int parts, const float *x, float *y, int64_t stride,
               bool onto, bool changed) {
    const Weight *weights = run.base.layers[layer].weights + first;
    const int64_t before = changed ? lowering(parts) : 0;
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

  // What adapters and the base make of one head of a projection of a row.
  void project_head(int64_t layer, int64_t row, int part, int64_t at, int64_t head, float *to) {
    const int64_t n = run.base.head_width;
    const float *from = run.projected.get() + row * (run.queries + 2 * run.keys) + at + head * n;
    std::memcpy(to, from, n * sizeof(float));
    for (const Group &group : run.groups)
      if (group.first <= row && row < group.first + group.count)
        raise(group, row, 1, layer, part, part, head * n, n, to, n);
  }

  void turn(int64_t row, const float *x, float *to) {
    const int64_t n = run.base.head_width, told = run.order[row];
    rotate(x, run.step.cosines + told * n, run.step.sines + told * n, n, to);
  }

  // Where keys or values of a row's lane begin.
  float *lane(float *const *of, int64_t layer, int64_t row, int64_t key_head) {
    const int64_t lane = run.step.lanes[run.order[row]];
    return of[layer] + (lane * run.base.key_heads + key_head) * run.step.capacity * run.base.head_width;
  }

  // A row's new key and value into its lane.
  void put(int64_t layer, int64_t row, int64_t key_head) {
    const int64_t at = run.step.positions[run.order[row]] * run.base.head_width;
    project_head(layer, row, KEYS, run.queries, key_head, heads.get());
    turn(row, heads.get(), lane(run.step.keys, layer, row, key_head) + at);
    project_head(layer, row, VALUES, run.queries + run.keys, key_head,
                 lane(run.step.values, layer, row, key_head) + at);
  }

  // The heads of one row that share keys: rotations, and attention to the lane up to the row's own token.
  void attend_shared(int64_t layer, int64_t row, int64_t key_head) {
    const Base &base = run.base;
    const int64_t n = base.head_width, sharing = base.heads / base.key_heads, first = key_head * sharing;
    if (!run.together)
      put(layer, row, key_head);
    float *queries = heads.get(), *turned = queries + sharing * n;
    for (int64_t i = 0; i < sharing; i++) {
      project_head(layer, row, QUERIES, 0, first + i, turned);
      turn(row, turned, queries + i * n);
      for (int64_t j = 0; j < n; j++)
        queries[i * n + j] *= base.scaling;
    }
    const int64_t at = run.step.positions[run.order[row]];
    const float *keys = lane(run.step.keys, layer, row, key_head);
    const float *values = lane(run.step.values, layer, row, key_head);
    attend(queries, sharing, keys, values, at, keys + at * n, values + at * n, n, scores.get(),
           run.mixed.get() + row * run.queries + first * n);
  }

  // Calls `act(from, n)` for pieces of `width` numbers.
  template <class Act> void pieces(int64_t layer, int phase, int64_t width, Act act) {
    for (int64_t from; (from = next(layer, phase) * PIECE) < width;)
      act(from, std::min(PIECE, width - from));
  }

  // What adapters add behind a projection onto the states.
  void raise_hidden(int64_t layer, int phase, int part) {
    pieces(layer, phase, run.base.width, [&](int64_t from, int64_t n) {
      raise_all(layer, part, 0, from, n, run.hidden.get(), run.base.width);
    });
  }

  void raise_gate(int64_t layer, int phase) {
    const int64_t inner = run.base.inner;
    pieces(layer, phase, inner, [&](int64_t from, int64_t n) {
      raise_all(layer, GATE, 0, from, n, run.gate.get(), inner);
      raise_all(layer, UP, 1, from, n, run.up.get(), inner);
      for (int64_t row = 0; row < run.step.rows; row++)
        activate(run.gate.get() + row * inner + from, run.up.get() + row * inner + from, n);
    });
  }

  // Gate and up, and what they make together where no adapter changes them.
  void open(int64_t layer, int phase, const float *x, bool changed) {
    const Weight *weights = run.base.layers[layer].weights;
    const int64_t inner = run.base.inner, rows = run.step.rows, before = changed ? lowering(2) : 0;
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
    if (run.together) { // tokens of one lane see each other
      for (int64_t piece; (piece = next(i, 8)) < run.step.rows * base.key_heads;)
        put(i, piece / base.key_heads, piece % base.key_heads);
#pragma omp barrier
    }
    for (int64_t piece; (piece = next(i, 1)) < run.step.rows * base.key_heads;)
      attend_shared(i, piece / base.key_heads, piece % base.key_heads);
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
         step->leaving + run.order[row] * base->width);
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

// Bytes that the panels of a weight of codes take.
int64_t rung_panel_bytes(const Weight *weight) {
  return (weight->rows + OUTPUTS - 1) / OUTPUTS * kept_bytes(*weight);
}

// Lays all panels of a weight of codes out, one behind the other.
void rung_lay(const Weight *weight, uint8_t *to, int64_t threads) {
  const int64_t count = (weight->rows + OUTPUTS - 1) / OUTPUTS;
#pragma omp parallel for num_threads(threads)
  for (int64_t i = 0; i < count; i++)
    keep_panel(*weight, i * OUTPUTS, to + i * kept_bytes(*weight));
}
}
