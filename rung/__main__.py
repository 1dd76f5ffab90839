"""`python -m rung` is `rung`, so that torchrun can start it as a module."""

from rung.cli import main

if __name__ == "__main__":
    main()
