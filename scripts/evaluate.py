"""Does what `proxyless-nas evaluate` does (proxyless_nas/commands/evaluate.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("evaluate")
