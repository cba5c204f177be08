"""`make operations`: record what is asked of a file server, into docs/operations.md."""

from tests.operations.page import FILE, page
from tests.operations.record import Guarded, record


def main() -> None:
    """Write the page."""
    FILE.write_text(page(record(), record(Guarded)))
    print(f"{FILE} is written")


if __name__ == "__main__":
    main()
