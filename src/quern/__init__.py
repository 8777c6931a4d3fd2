"""Quern: a self-hosted code-generation server for Qwen-Coder models."""

__version__ = "0.1.0"
