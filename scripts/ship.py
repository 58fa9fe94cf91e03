"""Does what `proxyless-nas ship` does (proxyless_nas/commands/ship.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("ship")
