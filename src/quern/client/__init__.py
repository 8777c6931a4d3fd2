"""A client for Quern's own endpoints."""
