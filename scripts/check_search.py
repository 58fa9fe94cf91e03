"""Does what `proxyless-nas check` does (proxyless_nas/commands/check.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("check")
