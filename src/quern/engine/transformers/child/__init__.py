"""What runs in the environment of Transformers, and nowhere else: a server of completions over token ids.

These modules import the standard library, what that environment has, and each other, but nothing else of Quern.
"""
