"""Does what `proxyless-nas retrain` does (proxyless_nas/commands/retrain.py)."""

from proxyless_nas.commands import script

if __name__ == "__main__":
    script("retrain")
