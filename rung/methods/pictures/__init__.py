"""Methods on bases that read pictures: the same ideas as for text, on vectors of a vision encoder.

`Method.on("pictures")` of a method gives its variant here. All of them find their adapters themselves
(`fit`), and all adapters answer with a label of their own classifier.
"""
