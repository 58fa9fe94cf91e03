"""Does what `proxyless-nas time` does (proxyless_nas/commands/time.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("time")
