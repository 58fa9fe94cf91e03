"""Does what `proxyless-nas quickstart` does (proxyless_nas/commands/quickstart.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("quickstart")
