"""Fetch candidates from outside services, and download them safely. Needs the extra `hybrid`; no plain search does."""
