"""Does what `proxyless-nas fit` does (proxyless_nas/commands/fit.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("fit")
