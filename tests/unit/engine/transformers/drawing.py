"""Run by the interpreter that has PyTorch: draws from given logits as the child does.

Standard input: a line of JSON for each case: the child's folder, what was asked for, rows of logits, ids that a grammar
allows or null. Standard output: the ids that were drawn, or the sentence with which drawing failed.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def main() -> None:
    torch: Any = importlib.import_module("torch")
    for line in sys.stdin:
        case = json.loads(line)
        sys.path.insert(0, case["parent"])  # the folder above: its modules import each other as a package's
        completion: Any = importlib.import_module("child.completion")
        sampling: Any = importlib.import_module("child.sampling")
        biases = {int(token): bias for token, bias in case["asked"].pop("logit_bias", {}).items()}
        asked = completion.Completion(max_tokens=100, logit_bias=biases, **case["asked"])
        sampler = sampling.Sampler(asked)
        drawn: list[Any] = []
        for row in case["rows"]:
            logits = torch.tensor(row, dtype=torch.float32)
            allowed = None
            if case["allowed"] is not None:
                allowed = torch.zeros(len(row), dtype=torch.bool)
                allowed[case["allowed"]] = True
            try:
                token = sampler.draw(logits, allowed)
            except sampling.NothingToDraw as error:
                drawn.append(str(error))
                break
            drawn.append([token.id, token.logprob, token.top])
        sys.stdout.write(json.dumps(drawn) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
