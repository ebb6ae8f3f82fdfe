"""`python -m gifdex` is the command `gifdex`."""

from gifdex.jobs.cli import main

if __name__ == "__main__":
    main()
