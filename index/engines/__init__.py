"""Candidate engines: each proposes rows near a query, which `index/search.py` rescores exactly."""
