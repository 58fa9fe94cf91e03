"""Does what `proxyless-nas sweep` does (proxyless_nas/commands/sweep.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("sweep")
