"""Batches: requests of a file, answered in the background by the routes that answer single ones."""
