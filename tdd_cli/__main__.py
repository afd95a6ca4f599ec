"""`python -m tdd_cli`, so that `accelerate launch -m tdd_cli distill ...` works."""

from tdd_cli.cli import main

if __name__ == "__main__":
    main()
