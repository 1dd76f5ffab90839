"""Somebody's Python in a process of its own, with limits on memory, time and what it may touch."""
