// Whether a model's tensors are what its configuration needs.
#pragma once

#include "formats/model_file.h"

namespace quern {

// Throws FileError where a tensor is missing, has another shape than the architecture gives it, or is one the
// architecture doesn't have (ignoring it would compute something else than the model).
void check_tensors(const ModelFile& model);

}  // namespace quern
