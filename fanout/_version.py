"""The version, in a file of its own: the build reads it, and the worker reports it, without imports."""

__version__ = "0.1.0"
