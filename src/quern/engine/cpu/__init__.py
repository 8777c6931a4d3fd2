"""Quern's own engine for CPUs: native code computes, Python decides."""
