"""`python -m peers.install litellm portkey`: install peers of peers.toml by name, without starting them."""

from __future__ import annotations

import sys

from peers.peers import PEERS


def main(names: list[str]) -> None:
    """Install the peers and print the result."""
    for name in names:
        PEERS[name].install()
        sys.stdout.write(f"{PEERS[name].package} is installed\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
