"""The command line, one module a job; the only place that reads arguments or prints."""
