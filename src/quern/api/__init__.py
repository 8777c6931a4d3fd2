"""HTTP dialects: parse, call turns, write events in their own framing."""
