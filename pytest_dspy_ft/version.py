"""The version of this package, which packaging, records and requests read from here."""

__version__ = "0.2.0"
