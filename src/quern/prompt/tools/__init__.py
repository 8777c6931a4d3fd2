"""Tool calls in a model's answer: found while they are written, and demanded."""
