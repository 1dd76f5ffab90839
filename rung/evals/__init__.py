"""Measuring models: what the task is, what they answer, how good that is and how sure it is."""
