"""One file per step, in order; a step never changes once it was released."""
