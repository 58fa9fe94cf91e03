"""Does what `proxyless-nas search` does (proxyless_nas/commands/search.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("search")
