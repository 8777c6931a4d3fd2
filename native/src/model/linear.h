// Quantised rows, and matrix multiplications shared out over the threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <initializer_list>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/memory.h"
#include "runtime/thread_pool.h"

namespace quern {

// What computes: the kernels of this CPU on these threads.
struct Compute {
    const Kernels& kernels;
    ThreadPool& pool;
};

// Memory that grows to what the largest batch needs.
template <class T>
class Scratch {
public:
    T* need(size_t count) {
        if (count * sizeof(T) > buffer_.bytes()) {
            buffer_ = Buffer();
            buffer_ = Buffer(count * sizeof(T), false);
        }
        return data();
    }
    T* data() { return reinterpret_cast<T*>(buffer_.data()); }
    const T* data() const { return reinterpret_cast<const T*>(buffer_.data()); }

private:
    Buffer buffer_;
};

// Rows of int8 activations, see TileLayout.
class QuantisedRows {
public:
    // Room for rows by columns; what was there is gone.
    uint8_t* resize(size_t rows, size_t columns) {
        rows_ = rows;
        columns_ = columns;
        return tiles_.need(tiles() * TileLayout{columns}.bytes());
    }
    size_t tiles() const { return (rows_ + tile_rows - 1) / tile_rows; }
    TilesView view() const { return {tiles_.data(), rows_, columns_}; }

private:
    Scratch<uint8_t> tiles_;
    size_t rows_ = 0;
    size_t columns_ = 0;
};

struct Multiplication {
    WeightView weights;
    Output output;
};

// Few rows are quantised faster than a second thread takes notice.
inline constexpr size_t rows_worth_sharing = 2 * tile_rows;

// Fine, unless one of the matrices that read the rows needs coarse scales.
inline Granularity granularity_for(std::initializer_list<WeightView> readers) {
    for (const WeightView& weights : readers) {
        if (granularity_for(weights.format) == Granularity::coarse) return Granularity::coarse;
    }
    return Granularity::fine;
}

template <class F>
void for_each_tile(const Compute& compute, size_t rows, const F& f) {
    const size_t tiles = (rows + tile_rows - 1) / tile_rows;
    if (rows > rows_worth_sharing) return compute.pool.run(tiles, f);
    for (size_t i = 0; i < tiles; ++i) f(i);
}

// Panels that one thread takes at a time: small enough that all threads end together, large enough that the
// activations they read are read rarely.
inline size_t panels_per_piece(size_t panels, size_t threads) {
    return std::clamp<size_t>(panels / (threads * 8), 1, 16);
}

// All of `list` reads the same rows, in one sharing.
inline void multiply_all(const Compute& compute, const TilesView& rows, std::initializer_list<Multiplication> list) {
    struct Piece {
        const Multiplication* what;
        size_t first, last;
    };
    size_t panels = 0;
    for (const Multiplication& m : list) panels += m.weights.panels();
    const size_t step = panels_per_piece(panels, compute.pool.threads());
    std::vector<Piece> pieces;
    for (const Multiplication& m : list) {
        for (size_t first = 0; first < m.weights.panels(); first += step) {
            pieces.push_back({&m, first, std::min(first + step, m.weights.panels())});
        }
    }
    compute.pool.run(pieces.size(), [&](size_t i) {
        compute.kernels.multiply(pieces[i].what->weights, rows, pieces[i].first, pieces[i].last,
                                 pieces[i].what->output);
    });
}

// out[rows][gate.rows] = silu(rows * gate^T) * (rows * up^T)
inline void multiply_gated(const Compute& compute, const TilesView& rows, const WeightView& gate,
                           const WeightView& up, float* out) {
    const size_t step = panels_per_piece(gate.panels(), compute.pool.threads());
    compute.pool.run((gate.panels() + step - 1) / step, [&](size_t i) {
        const size_t first = i * step, last = std::min(first + step, gate.panels());
        compute.kernels.multiply(gate, rows, first, last, {out, gate.rows, Epilogue::store});
        compute.kernels.multiply(up, rows, first, last, {out, gate.rows, Epilogue::silu_mul});
    });
}

}  // namespace quern
