"""Queues of requests: each computes one kind of answer for the engine."""
