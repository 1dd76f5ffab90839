"""Pictures: read safely, prepared as their encoder wants them, and encoded.

    found, notes = picture("photos/apple.jpg")     # a reference: SHA-256 and place
    encoder = load(bases.resolve("efficientnet-lite0"))
    encoder.encode([found])                        # (1, 1280)

Reading needs Pillow (extra `pictures`), encoding torch; importing this package imports neither.
"""

from rung.pictures.preprocessing import Preprocessing
from rung.pictures.reading import picture

__all__ = ["Preprocessing", "picture"]
