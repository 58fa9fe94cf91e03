"""Does what `proxyless-nas measure` does (proxyless_nas/commands/measure.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("measure")
