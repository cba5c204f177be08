"""`python -m puffs`: the command `puffs`."""

from puffs.cli import main

if __name__ == "__main__":
    main()
