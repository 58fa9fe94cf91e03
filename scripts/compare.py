"""Does what `proxyless-nas compare` does (proxyless_nas/commands/compare.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("compare")
