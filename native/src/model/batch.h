// What one step computes: a ragged batch of prefill chunks, single decoded tokens and drafts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/config.h"
#include "sampling/sampler.h"

namespace quern {

// What becomes of a sequence that is embedded: its last token's hidden state after the output norm, divided by its
// length. Empty until that is computed, and where it has no length that is a number.
struct Embedding {
    std::vector<float> values;  // [hidden]
};

// One sequence's part of a step. Its tokens stand at `position` and after; `blocks` holds them and all before. Where it
// has a sampler that draws at its end, where it has an embedding that is filled; it never has both.
struct Item {
    std::vector<int32_t> tokens;
    size_t position = 0;
    std::vector<int32_t> blocks;
    Sampler* sampler = nullptr;
    size_t samples = 1;  // of the last tokens; counts only with a sampler or where logits are asked for
    Embedding* embedding = nullptr;
};

// One row of the batch.
struct Row {
    int32_t token;
    size_t position;
    size_t item;
};

// A run of query tokens of one item that attends in one task.
struct QueryRun {
    size_t item;
    size_t first_row;
    size_t tokens;
};

struct Batch {
    std::vector<Item> items;
    std::vector<Row> rows;             // all items' tokens, one after the other
    std::vector<size_t> logit_rows;    // rows whose logits are wanted, in order
    std::vector<size_t> logit_starts;  // per item, its first index in logit_rows; and one more at the end
    std::vector<size_t> last_rows;     // per item, the row of its last token

    // Throws std::invalid_argument with a sentence for ids, positions, blocks or samples out of range.
    Batch(std::vector<Item> items, const ModelConfig& config, size_t blocks, bool all_give_logits);

    std::vector<QueryRun> query_runs(size_t most_tokens) const;
};

}  // namespace quern
