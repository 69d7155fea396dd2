"""insideout: who feels what, in every shot of an animated film."""

__version__ = "0.1.0"
