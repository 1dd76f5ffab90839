"""What kind of model a base is: facts, speed, reading, memory for what it read, variety, few-shot gain.

    subject = Subject.load("smollm2-135m")
    card = study(subject)           # plain data, part by part
    write_page(card, path)          # one page that needs no network

All of it is measured on texts that come with Rung (material.toml), the same for every base.
"""

from rung.evals.basecard.page import check_place, write_page
from rung.evals.basecard.study import PARTS, study
from rung.evals.basecard.subject import Subject
from rung.evals.basecard.words import says

__all__ = ["PARTS", "Subject", "check_place", "says", "study", "write_page"]
