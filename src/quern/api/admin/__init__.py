"""Running the server over HTTP: its keys, and who changed what."""
