"""Tool calls in a model's answer: found and mended while they arrive, and demanded by a grammar."""
