"""The built-in search spaces. Every module that is imported before a supernet is built does without torch."""
