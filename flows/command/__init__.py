"""The sub-commands: each parses, checks, calls and prints."""
