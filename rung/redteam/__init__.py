"""Red teaming one's own models: attack, judge, report, and mend by preferences.

Attacks, answers and hits are written only into the folder that the user names.
"""
