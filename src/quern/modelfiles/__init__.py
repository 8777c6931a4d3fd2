"""What a model's files say of it: read once, for every room that needs it."""
