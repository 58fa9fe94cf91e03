"""Does what `proxyless-nas derive` does (proxyless_nas/commands/derive.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("derive")
