"""Decoding steps in compiled code, where a compiler is found; the pass by torch computes the same."""
