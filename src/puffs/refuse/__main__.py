"""`python -m puffs.refuse`: `puffs refuse` without click."""

from puffs.refuse.runner import main
from puffs.streams import open_streams

if __name__ == "__main__":
    open_streams()
    main()
