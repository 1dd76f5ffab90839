"""The addresses, one module a resource; each holds `routes`."""
