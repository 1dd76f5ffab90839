"""Training: the one loop, and the only place where method, objective and launch meet."""
