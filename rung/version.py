"""The version of the package; apart, so that what names it need not import the library."""

__version__ = "0.1.0"
