"""Does what `proxyless-nas kit` does (proxyless_nas/commands/kit.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("kit")
