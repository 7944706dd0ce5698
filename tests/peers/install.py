"""`python -m peers.install litellm portkey`: install peers of peers.toml by name, without starting them."""

from __future__ import annotations

import argparse
import sys

from peers.peers import PEERS


def main() -> None:
    """Install the peers and print the result."""
    parser = argparse.ArgumentParser(prog="python -m peers.install")
    parser.add_argument("--python", default=sys.executable, help="the interpreter of peers that are Python packages")
    parser.add_argument("names", nargs="+", choices=PEERS)
    given = parser.parse_args()
    for name in given.names:
        PEERS[name].install(given.python)
        sys.stdout.write(f"{PEERS[name].package} is installed\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
