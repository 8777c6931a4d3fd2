"""One turn's life. Every dialect calls this room and nothing below it."""
