"""insideout: who feels what, in every shot of an animated film."""

import os

__version__ = "0.1.0"

MOST_PIXELS = 1 << 27
"""Pixels of a picture file at most, as many as 16K has: a few bytes can claim to be a picture that fills the memory."""

# Read by OpenCV when it is first imported, also for what others read with it.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MOST_PIXELS))
