"""Mapping: which record of one system is which record of another.

    problem = read("ours.csv", "theirs.csv", ["known.csv"], MapKnobs())
    outcome = climb(problem, MapKnobs(bar="f1=0.8"))
    rows = outcome.rows()

Rungs score pairs of records, the cheapest first; an assignment makes one-to-one pairs of the scores, a
calibration makes confidences of them, and a threshold on validation says 'none of these'.
"""
