"""Synthesis of data: from a description to rows that a teacher model wrote, checked and counted.

    from rung.synthesis.pipeline import synthesise
    made = synthesise("Answers any worry with one warm sentence.", knobs)

The stages are those of the pipeline: a plan of topics (`topics.py`), drafts of rows by kind (`kinds/`),
checks and duplicates (`checks.py`, `duplicates.py`), measures of diversity (`diversity.py`), and the
file with its card (`writer.py`). What a teacher answers is kept by content (`cache.py`).
"""
