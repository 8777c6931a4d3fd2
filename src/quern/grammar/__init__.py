"""What an answer may look like, and how it is kept to that: JSON schemas, calls of tools, Lark."""
