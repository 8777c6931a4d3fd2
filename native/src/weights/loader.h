// Reads tensors into their internal formats with several threads.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "formats/model_file.h"
#include "weights/pack.h"
#include "weights/packed_matrix.h"

namespace quern {

// Called on the loading thread with the share of weights loaded, 0 to 1; an exception ends the loading.
using LoadProgress = std::function<void(float)>;

// Collects what is to be loaded, then loads it. Memory beyond the packed weights is 16 rows per thread.
class Loader {
public:
    Loader(const ModelFile& file, FloatWeights floats) : file_(file), floats_(floats) {}

    // The matrix is allocated now and filled by run(). `expert` picks one of a stack [experts, rows, columns].
    // Throws FileError for a name that isn't there or a row length that the kernels can't take.
    PackedMatrix matrix(const std::string& name, size_t expert = 0);

    // A whole tensor as floats, at once.
    std::vector<float> floats(const std::string& name) const;

    // Fills every matrix. Throws FileError, std::bad_alloc, or what `progress` throws.
    void run(size_t threads, const LoadProgress& progress);

private:
    struct Job {
        const TensorInfo* tensor;
        uint64_t offset;  // of the first row in the tensor
        size_t rows;
        size_t columns;
        WeightFormat format;
        uint8_t* panel;
    };

    void load(const Job& job, std::vector<std::byte>& scratch) const;

    const ModelFile& file_;
    FloatWeights floats_;
    std::vector<Job> jobs_;  // runs of panels
};

}  // namespace quern
