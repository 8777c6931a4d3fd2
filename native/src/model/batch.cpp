#include "model/batch.h"

#include <algorithm>
#include <set>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace quern {
namespace {

[[noreturn]] void refuse(size_t item, const std::string& what) {
    throw std::invalid_argument("Item " + std::to_string(item) + " of the batch " + what);
}

void check(const Item& item, size_t index, const ModelConfig& config, size_t blocks) {
    const size_t vocabulary = config.vocabulary;
    const size_t count = item.tokens.size();
    if (count == 0) refuse(index, "has no tokens; every item computes at least one.");
    for (const int32_t token : item.tokens) {
        if (token < 0 || static_cast<size_t>(token) >= vocabulary) {
            refuse(index, "has the token id " + std::to_string(token) + ", and the vocabulary has " +
                              std::to_string(vocabulary) + " tokens.");
        }
    }
    const size_t room = item.blocks.size() * block_tokens;
    if (item.position > room || count > room - item.position) {
        refuse(index, "has " + std::to_string(count) + " tokens at position " + std::to_string(item.position) +
                          ", and its blocks hold only " + std::to_string(room) + ".");
    }
    if (item.position + count > config.context_length) {
        refuse(index, "ends at position " + std::to_string(item.position + count) + ", and the model's context is " +
                          std::to_string(config.context_length) + " tokens.");
    }
    for (const int32_t block : item.blocks) {
        if (block < 0 || static_cast<size_t>(block) >= blocks) {
            refuse(index, "names block " + std::to_string(block) + "; the KV cache has blocks 0 to " +
                              std::to_string(blocks - 1) + ".");
        }
    }
    if (item.samples == 0 || item.samples > count) {
        refuse(index, "wants " + std::to_string(item.samples) + " samples of " + std::to_string(count) + " tokens.");
    }
}

}  // namespace

Batch::Batch(std::vector<Item> all, const ModelConfig& config, size_t blocks, bool all_give_logits)
    : items(std::move(all)) {
    if (items.empty()) throw std::invalid_argument("A batch has at least one item.");
    std::set<const void*> ends;
    for (size_t i = 0; i < items.size(); ++i) {
        const Item& item = items[i];
        check(item, i, config, blocks);
        if (item.sampler && item.embedding) refuse(i, "has a sampler and an embedding; its end is one of the two.");
        // Items reach their ends at the same time.
        if (item.sampler && !ends.insert(item.sampler).second) refuse(i, "has the sampler of another item.");
        if (item.embedding && !ends.insert(item.embedding).second) refuse(i, "has the embedding of another item.");
        for (size_t t = 0; t < item.tokens.size(); ++t) rows.push_back({item.tokens[t], item.position + t, i});
        last_rows.push_back(rows.size() - 1);
        logit_starts.push_back(logit_rows.size());
        if (item.sampler || all_give_logits) {
            for (size_t row = rows.size() - item.samples; row < rows.size(); ++row) logit_rows.push_back(row);
        }
    }
    logit_starts.push_back(logit_rows.size());
}

std::vector<QueryRun> Batch::query_runs(size_t most_tokens) const {
    std::vector<QueryRun> runs;
    size_t row = 0;
    for (size_t i = 0; i < items.size(); ++i) {
        const size_t end = row + items[i].tokens.size();
        for (; row < end; row += runs.back().tokens) runs.push_back({i, row, std::min(end - row, most_tokens)});
    }
    return runs;
}

}  // namespace quern
