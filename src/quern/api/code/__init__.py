"""The two original endpoints."""
