"""Does what `proxyless-nas export` does (proxyless_nas/commands/export.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("export")
