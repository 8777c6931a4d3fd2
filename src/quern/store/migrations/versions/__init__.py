"""Migration steps, linked by `down_revision`."""
